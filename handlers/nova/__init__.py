"""Handlers for Nova's drift, in families. A family uses the files of this folder, but no other family.

Families: hosts, mappings, allocations, ports, archive, migrations, bindings, instances, info_cache.
Tests and demonstration: simulation, notifications.

base                base classes of the handlers
stuck               base class of the handlers for stuck tasks, builds and migrations
keys                makes keys from notifications
options             the options ``[nova]``
brokers             the brokers on which Nova publishes
checks              the checks of ``stackmend check``
demo                the scenes of ``stackmend demo``
watermarks          reads values that only grow, such as highest ids
holds               hosts whose disabled service makes heals wait

database            connections to nova_api and the cells
cells               rows of ``cell_mappings`` and their URLs
clocks              compares the clocks of services and databases
revisions           the schemas of known releases
tables              the columns that handlers read or write
records             rows as values
queries             SQL that several families share
mapped              reads an instance with the cell of its mapping
names               compares host names
concerns            makes the concerns of findings
nodes               reads compute nodes and instances of all cells
former_nodes        reads deleted compute nodes
archived_consumers  finds archived instances and migrations
placement           the client of Placement
verdicts            the verdicts of rules
"""
