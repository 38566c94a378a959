"""Lets programs of revision 0001 use this schema. Adds two indexes, and a column for the revision that a replica needs."""

from __future__ import annotations

from sqlalchemy import Column, String

from consumer.journal.migrations import steps

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    steps.permit(revision, oldest="0001")
    steps.add_column("replica", Column("revision", String(32)))
    steps.create_index("history_handler_idx", "history", "handler", "id")
    steps.create_index("ask_expires_idx", "ask", "expires_at")
