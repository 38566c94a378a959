"""Nova's drift. The five families use the other files of this folder and do not know each other.

Families: hosts, mappings, allocations, ports, archive.
Tests and demonstration: simulation, notifications.

base                the bases of the handlers
keys                keys out of notifications
options             the options ``[nova]``
brokers             the brokers on which Nova publishes
checks              for ``stackmend check``
demo                the scenes of ``stackmend demo``
watermarks          values of the databases that only grow

database            connections to nova_api and the cells
cells               rows of ``cell_mappings`` and their URLs
clocks              the clocks of Nova's services and of the databases
revisions           known schemas
tables              the columns that handlers read or write
records             rows as values
queries             SQL that several families share
sql_text            statements as an operator types them
names               the comparison of host names
nodes               compute nodes and instances of all cells
former_nodes        deleted compute nodes
archived_consumers  archived instances and migrations
placement           the client of Placement
verdicts            the verdicts of rules, and settle times
"""
