"""The journal: stackmend's own database, with the table of work and the history.

The table ``work`` has one row for each handler and key. Replicas claim rows by compare-and-set. They share one journal on
MariaDB, Galera or PostgreSQL; SQLite serves one replica. A row without further work is deleted; ``history`` keeps the record.

The modules ``hinting``, ``claiming`` and ``settling`` write this table; ``work`` has its rows as values. ``backlog`` lists the
rows for operators. ``outbox`` and ``deliveries`` have the messages for sinks, ``controls`` the state of handlers, and ``acts``
the operators' commands. ``schema`` defines all tables, and ``migrations`` their revisions.
"""
