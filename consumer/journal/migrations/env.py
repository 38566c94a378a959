"""Runs migrations for alembic on the given connection: in its open transaction, or with a commit after each statement."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
