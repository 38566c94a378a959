"""Writes SQL statements as an operator types them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def as_typed(connection: Connection, statement: sa.Insert | sa.Update | sa.Delete) -> str:
    """Return a statement as text in this database's dialect. A value in it can contain newlines."""
    text = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    if connection.dialect.paramstyle in {"format", "pyformat"}:
        text = text.replace("%%", "%")
    return f"{text};"
