"""Moves deleted rows from the live tables of a cell into its shadow tables, and later purges these.

archive_deleted_rows  handler; moves deleted rows into the shadow tables
purge                 handler; deletes archived rows for good
cell_handler          the base of both handlers
cycle                 one run of archiving, in one cell
statements            SQL that finds and moves rows
undo                  SQL that brings archived rows back
shadow_tables         SQL that finds and purges archived rows
schema                reads a cell's tables, foreign keys and shadow tables
"""
