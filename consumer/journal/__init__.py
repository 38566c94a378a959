"""The durable table of work: what is to be looked at, who looks at it, what was found and done.

One row per (handler, key) in ``work``; a hint that comes while the row exists only bumps its generation. Rows are
claimed by compare-and-set and a lease, so any number of replicas share one journal on SQLite (one replica), MariaDB,
Galera or PostgreSQL. Finished rows are deleted; what was done stays in ``history``.

Knows nothing of the bus. Rooms: ``schema`` (tables), ``database`` (engines, clock, transient errors), ``work`` (what
workers do with rows), ``backlog`` (what operators do with them), ``history``, ``dead`` (undecodable messages),
``controls`` (pause, breaker, sweep figures), ``replicas``, ``migrations``.
"""
