"""Placeholder servers that make room for failovers.

================  ======================================================================================================
spare_pool.py     the handler: fills the pools, and deletes surplus placeholders
pool.py           reads the pools from Nova, builds placeholders, gives a placeholder's room to a failover
inventory.py      the commands ``stackmend amphora spare``
================  ======================================================================================================
"""
