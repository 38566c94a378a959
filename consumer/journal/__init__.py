"""The journal: the durable table of work and its history.

The table ``work`` has one row per (handler, key). Replicas claim rows by compare-and-set with a lease. They share one journal
on MariaDB, Galera or PostgreSQL; SQLite serves one replica. A finished row is deleted; the record of the work stays in
``history``.

schema                tables
database              engines, clock, transactions, retries
work                  hints, claims and results
backlog               the work table for operators
history               findings and heals
dead                  dead letters: undecodable messages
controls              pauses, breakers, sweeps
notification_formats  the last arrival of each wire format
watermarks            the last watermark of each database
replicas              running processes; the lock of an SQLite journal
migrations            the schema's revisions
opening               opens the configured journal
"""
