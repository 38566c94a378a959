"""The journal: work, history, dead letters, tasks, replicas."""

from alembic import op

from consumer.journal.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables of ``schema``. Whoever adds a second revision must copy the tables here."""
    metadata.create_all(op.get_bind())
