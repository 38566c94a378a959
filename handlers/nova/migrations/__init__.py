"""Migrations that no service of Nova carries on. The handler is ``audit_stuck_migrations``."""
