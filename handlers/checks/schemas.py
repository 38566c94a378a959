"""Whether another service's database has the tables and columns that are read and written here.

Asked once, at start: a database of another release, or of another service, is told by the names of what it lacks, and not by
the first query that happens to fail.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def lacking(connection: Connection, wanted: sa.MetaData) -> list[str]:
    """Return what a database lacks of these, or its user may not see: ``table instances``, ``column services.host``."""
    inspector = sa.inspect(connection)
    names = set(inspector.get_table_names())
    found: list[str] = []
    for table in sorted(wanted.tables.values(), key=lambda table: table.name):
        if table.name not in names:
            found.append(f"table {table.name}")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        found += [f"column {table.name}.{column.name}" for column in table.columns if column.name not in columns]
    return found
