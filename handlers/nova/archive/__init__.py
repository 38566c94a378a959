"""Moves deleted rows of a cell into its shadow tables, and later purges the shadow tables.

archive_deleted_rows  handler; archives deleted rows
purge                 handler; deletes archived rows for good
cell_handler          the base of both handlers
cycle                 one run of archiving in one cell
statements            SQL that finds and moves rows
undo                  SQL that brings archived rows back
shadow_tables         SQL that finds and purges archived rows
schema                the schema of a cell
"""
