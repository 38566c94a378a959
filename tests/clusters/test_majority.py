"""A node that leaves the majority refuses statements, but keeps its clients' connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sa

from consumer.journal import claiming, hinting, migrations, settling
from consumer.journal.database import Database, open_engine
from consumer.journal.work import Done
from handlers.access.database import Database as CloudDatabase
from tests.functional.journal.contract import H, hint
from tests.relay import Relay
from tests.servers.galera import Galera
from tests.servers.server import HOST


@pytest.fixture
def balancer(galera: Galera) -> Iterator[Relay]:
    """Yield a load balancer that leads to the first node."""
    made = Relay(HOST, galera.nodes[0].port)
    yield made
    made.close()


@contextmanager
def failover(galera: Galera, balancer: Relay) -> Iterator[None]:
    """Cut the first node off, and lead new connections to the second node."""
    first, second, _third = galera.nodes
    first.set_provider("gmcast.isolate=1")
    try:
        while first.status("ready") != "OFF":
            time.sleep(0.1)
        balancer.redirect(second.port)
        yield
    finally:
        first.set_provider("gmcast.isolate=0")
        galera.start()


def url(galera: Galera, balancer: Relay, name: str) -> str:
    first = galera.nodes[0]
    return first.url(name).replace(f":{first.port}/", f":{balancer.port}/")


@pytest.mark.timeout(180)
def test_the_journal_connects_to_another_node(
    galera: Galera, balancer: Relay, database_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Database(open_engine(url(galera, balancer, database_name)))) as journal:
        migrations.upgrade(journal)
        hinting.enqueue(journal, [hint("a")])
        with failover(galera, balancer):
            (claim,) = claiming.claim(journal, "r1", [H], 1, 60)
            settling.settle(journal, claim, Done())
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.timeout(180)
def test_the_database_of_a_cell_is_read_at_another_node(
    galera: Galera, balancer: Relay, database_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    galera.nodes[0].execute(
        "CREATE TABLE instances (id INT PRIMARY KEY); INSERT INTO instances VALUES (7)", database_name
    )
    read = sa.text("SELECT id FROM instances")
    with closing(CloudDatabase("cell:cell1", url(galera, balancer, database_name))) as cell:
        assert cell.run(lambda connection: connection.execute(read).scalar()) == 7
        with failover(galera, balancer):
            assert cell.run(lambda connection: connection.execute(read).scalar()) == 7
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
