"""Migrations that no service of Nova carries on.

``audit_stuck_migrations``  the handler
``facts``                   reads the records of an instance's migrations
``rules``                   decides about a migration, without I/O
``queries``                 the SQL
"""
