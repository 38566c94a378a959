"""Handlers of Nova's drift. Each folder with handlers is a family. Families import this folder's modules, but not each other.

Most families have three modules: ``facts`` reads records, ``rules`` decides by them, and ``queries`` has the SQL.
Folders for tests and demonstration: simulation, notifications.

Base and tools of handlers: base, stuck, options, keys, verdicts, concerns, objects, exempt_tags, turns.
Nova's databases: database, cells, clocks, revisions, tables, records, queries, names.
Objects in all cells: mapped, nodes, former_nodes, archived_consumers, lifeless.
The client of Placement: placement.
Entry points: brokers, checks (with replaced), demo, holds, watermarks.
"""
