from __future__ import annotations

import sqlalchemy as sa

#: a statement that writes
Writing = sa.Insert | sa.Update | sa.Delete


def as_typed(dialect: sa.Dialect, statement: Writing) -> str:
    """Return a statement with its values, as an operator types it. Values can contain newlines."""
    text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    if dialect.paramstyle in {"format", "pyformat"}:
        text = text.replace("%%", "%")
    return f"{text};"
