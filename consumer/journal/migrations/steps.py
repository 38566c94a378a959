"""The steps of migrations. Except on SQLite, each step commits by itself.

A step that was done before does nothing. So a killed upgrade can be repeated from its first step.
"""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, text

_compatibility = Table(
    "compatibility",
    MetaData(),
    Column("revision", String(32), primary_key=True),
    Column("oldest", String(32), nullable=False),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
)


def permit(revision: str, oldest: str) -> None:
    """Store the oldest revision whose programs may use the journal from now on. This must be a migration's first step."""
    connection = op.get_bind()
    _compatibility.create(connection, checkfirst=True)
    known = select(_compatibility.c.revision).where(_compatibility.c.revision == revision)
    if connection.execute(known).first() is None:
        connection.execute(insert(_compatibility).values(revision=revision, oldest=oldest))


def add_column(table: str, column: Column[Any]) -> None:
    if column.name not in {there["name"] for there in inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def create_index(name: str, table: str, *columns: str) -> None:
    """Create an index; replicas can write to the table meanwhile."""
    connection = op.get_bind()
    if _is_unfinished(connection, name):
        op.drop_index(name, table, postgresql_concurrently=True)
    if name not in {there["name"] for there in inspect(connection).get_indexes(table)}:
        # MariaDB does not block writers; PostgreSQL must be asked for that.
        op.create_index(name, table, columns, postgresql_concurrently=True)


def _is_unfinished(connection: Connection, index: str) -> bool:
    """Return whether an interrupted CREATE INDEX CONCURRENTLY of PostgreSQL left an index that no query uses."""
    if connection.dialect.name != "postgresql":
        return False
    query = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(connection.execute(query, {"name": index}).scalar())
