"""Handlers for Nova's drift, in families. A family imports the files of this folder, but nothing from another family.

Families: hosts, mappings, allocations, ports, archive, migrations, bindings, attachments, instances, info_cache, devices.
Most families have ``facts``, which reads records; ``rules``, which decides without I/O; and ``queries``, the SQL.
Tests and demonstration: simulation, notifications.

For handlers: base, stuck, options, keys, verdicts, concerns, objects, exempt_tags, turns.
Nova's databases: database, cells, clocks, revisions, tables, records, queries, names.
Objects in all cells: mapped, nodes, former_nodes, archived_consumers, lifeless.
Placement: placement.
Entry points: brokers, checks, demo, holds, watermarks. Used by checks: replaced.
"""
