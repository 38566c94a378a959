"""The journal: the durable table of work and its history.

The table ``work`` has one row per (handler, key). Replicas claim rows by compare-and-set, and share one journal on MariaDB,
Galera or PostgreSQL; SQLite serves one replica. When a row has no work left, it is deleted; ``history`` keeps the record.

``work``                  hints, claims and the ends of claims, as values
``hinting``               stores hints, and makes rows due
``claiming``              gives claims to workers
``settling``              begins heals and settles claims
``backlog``               the work table for operators
``history``               entries about findings and heals
``asks``                  findings that wait for approval
``exemptions``            objects that no heal changes
``controls``              pauses, and the state of handlers
``dead``                  dead letters
``outbox, deliveries``    messages for sinks
``replicas``              the processes that share the journal
``watermarks``            watermarks of cloud databases
``node_clocks``           clocks of Galera nodes
``notification_formats``  the formats of received notifications
``acts``                  operators' commands in the history
``opening``               opens the journal
``database, schema``      engines, transactions and errors; the tables
``migrations``            revisions of the tables
"""
