from __future__ import annotations

import sqlalchemy as sa

#: a statement that writes
Writing = sa.Insert | sa.Update | sa.Delete


def as_typed(dialect: sa.Dialect, statement: Writing) -> str:
    """Return a statement as SQL text that an operator can type, with its values. The text can have several lines."""
    text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    if dialect.paramstyle in {"format", "pyformat"}:
        text = text.replace("%%", "%")
    return f"{text};"
