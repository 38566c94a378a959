"""Handlers for Nova's drift, in families. A family uses the files of this folder, but no other family.

Families: hosts, mappings, allocations, ports, archive, migrations, bindings, instances, info_cache.
Tests and demonstration: simulation, notifications.

Handlers: base, stuck, options, keys, verdicts, concerns, turns.
Nova's databases: database, cells, clocks, revisions, tables, records, queries, names.
Objects in all cells: mapped, nodes, former_nodes, archived_consumers.
Placement: placement.
Entry points: brokers, checks (with replaced), demo, holds, watermarks.
"""
