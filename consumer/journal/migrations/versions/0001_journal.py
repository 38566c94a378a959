"""The journal: work, history, dead events, tasks, replicas."""

from alembic import op

from consumer.journal.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables. While there is one revision only, they are those of ``schema``; freeze them here with the second."""
    metadata.create_all(op.get_bind())
