"""A database that is nova_api and a cell at the same time, on each of the servers that Nova runs on.

For tests of queries: the fixtures are imported by name where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from handlers.access.database import Database
from handlers.nova import tables


@pytest.fixture(params=("mariadb", "postgresql"))
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty database, on each server in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """The database with Nova's tables."""
    made = sa.create_engine(url)
    tables.api.create_all(made)
    tables.cell.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def database(engine: sa.Engine, url: str) -> Iterator[Database]:
    """The same as the handlers see it."""
    made = Database("nova", url)
    yield made
    made.close()


def add(engine: sa.Engine, table: sa.Table, **values: object) -> None:
    """Insert a row."""
    with engine.begin() as connection:
        connection.execute(sa.insert(table).values(values))


def ago(**age: float) -> datetime:
    """Return a time in the past as Nova writes it: naive UTC, whole seconds."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0) - timedelta(**age)
