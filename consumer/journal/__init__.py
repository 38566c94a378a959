"""The journal: the durable table of work and its history.

The table ``work`` has one row per (handler, key). Replicas claim rows by compare-and-set, and share one journal on MariaDB,
Galera or PostgreSQL; SQLite serves one replica. When a row has no work left, it is deleted; ``history`` keeps the record.
"""
