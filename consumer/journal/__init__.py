"""The journal: stackmend's own database, with the work table and the history.

The work table has one row for each handler and key with work. Replicas claim rows by compare-and-set. They share one journal on
MariaDB, Galera or PostgreSQL; SQLite serves one replica.

The modules ``hinting``, ``claiming`` and ``settling`` write the work table for the engine, and ``backlog`` for operators. The
module ``work`` defines its rows as Python values. ``asks`` stores the findings that wait for an operator, and ``approvals``
ends an approval that a heal used. ``outbox`` and ``deliveries`` store the messages for sinks. ``controls`` stores the state of
handlers, and ``acts`` the operators' commands. ``schema`` defines all tables; ``migrations`` upgrades them.
"""
