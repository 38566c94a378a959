"""Keeps placeholders, which make room for failovers.

spare_pool.py     the handler: fills the pools of spares, and deletes surplus placeholders
pool.py           reads the pools from Nova, builds placeholders, deletes a spare to make room for a failover
inventory.py      the commands ``stackmend amphora spare``
"""
