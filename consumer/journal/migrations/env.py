"""Runs migrations for alembic on the given connection, inside the open transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
