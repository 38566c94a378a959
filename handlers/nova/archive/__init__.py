"""Moves deleted rows of a cell into its shadow tables, and later purges the shadow tables.

Handlers: archive_deleted_rows, purge. Their base: cell_handler. One run of archiving in one cell: cycle.
SQL: statements (moves rows), undo (brings rows back), shadow_tables (purges rows). The schema of a cell: schema.
"""
