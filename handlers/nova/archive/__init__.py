"""Deleted rows leave the live tables of a cell, and later its shadow tables.

========================  ===============================================
``archive_deleted_rows``  handler: move deleted rows to shadow tables
``purge``                 handler: delete archived rows for good
``cell_handler``          the base of both
``cycle``                 one archiving run in one cell
``statements``            SQL that finds and moves rows
``undo``                  SQL that brings archived rows back
``shadow_tables``         SQL that purges archived rows
``schema``                a cell's tables, references and shadow tables
========================  ===============================================
"""
