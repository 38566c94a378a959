"""A database that accepts connections and never answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from handlers.access import database as access
from handlers.access.database import Database
from handlers.base import Unavailable
from tests.silence import SilentServer

URLS = ("mysql+pymysql://nova:secret@127.0.0.1:{}/nova", "postgresql+psycopg://nova:secret@127.0.0.1:{}/nova")


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.fixture(params=URLS, ids=("pymysql", "psycopg"))
def database(
    request: pytest.FixtureRequest, silent: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """A database whose statements may last an hour: only the wait for a handshake can end."""
    monkeypatch.setattr(access, "_PATIENCE", 3600)
    made = Database("cell:cell1", f"{request.param.format(silent.port)}?connect_timeout=2")
    yield made
    made.close()


def ask(database: Database) -> None:
    with pytest.raises(Unavailable) as caught:
        database.run(lambda connection: connection.execute(sa.text("SELECT 1")))
    assert caught.value.dependency == "cell:cell1"


def test_a_handshake_without_an_answer_ends(database: Database) -> None:
    ask(database)


def test_only_the_first_callers_wait_for_a_silent_database(database: Database, silent: SilentServer) -> None:
    first = [threading.Thread(target=ask, args=(database,)) for _caller in range(3)]
    for thread in first:
        thread.start()
    for thread in first:
        thread.join(30)
    asked = silent.connections
    for _caller in range(50):
        ask(database)
    assert silent.connections == asked
