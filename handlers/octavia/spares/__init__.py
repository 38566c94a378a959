"""Placeholder servers that make room for failovers.

================  ======================================================================================================
spare_pool.py     the handler: it fills the pools, and deletes what they do not need
pool.py           the pools as Nova shows them; building a placeholder, and giving its room to a failover
inventory.py      ``stackmend amphora spare``
================  ======================================================================================================
"""
