"""Watermarks of Nova's databases on Galera: writers at every node are no fall; an older dump is one, at every node."""

from __future__ import annotations

import random
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.engine import guard
from consumer.engine.guard import falls
from consumer.journal import controls, migrations
from consumer.journal.database import Database, open_engine
from handlers.base import Handler, Resources, Watermark
from handlers.nova import tables
from handlers.nova.cells import CELL0
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.watermarks import nova_watermarks
from handlers.testing import configured
from tests.servers.galera import Galera, Node

HANDLERS: list[type[Handler]] = [DiscoverHosts]
SECONDS = 15.0
API, CELL = "nova_api", "nova_cell1"
TEMPLATE = "{scheme}://{username}:{password}@{hostname}:{port}/" + CELL


class Writer:
    """Boots and deletes instances through one node, as an API server and a conductor do."""

    def __init__(self, node: Node) -> None:
        self.api = sa.create_engine(node.url(API))
        self.cell = sa.create_engine(node.url(CELL))

    def boot(self) -> None:
        instance = str(uuid.uuid4())
        with self.api.begin() as connection:
            connection.execute(sa.insert(tables.request_specs).values(instance_uuid=instance, spec="{}"))
            mapping = {"instance_uuid": instance, "project_id": "p", "cell_id": 2, "queued_for_delete": False}
            connection.execute(sa.insert(tables.instance_mappings).values(mapping))
        with self.cell.begin() as connection:
            connection.execute(sa.insert(tables.instances).values(uuid=instance, hidden=False, deleted=0))

    def fail(self) -> None:
        """Begin a boot that is rolled back: this node's counter grows, and no row appears."""
        with self.api.connect() as connection:
            for _ in range(3):
                row = {"instance_uuid": str(uuid.uuid4()), "spec": "{}"}
                connection.execute(sa.insert(tables.request_specs).values(row))
            connection.rollback()

    def purge_newest(self) -> None:
        """Delete the newest rows of every table, as archiving and a purge do."""
        for engine, table in (
            (self.api, tables.request_specs),
            (self.api, tables.instance_mappings),
            (self.cell, tables.instances),
        ):
            with engine.begin() as connection:
                newest = sa.select(table.c.id).order_by(table.c.id.desc()).limit(random.randint(1, 3))
                ids = connection.execute(newest).scalars().all()
                connection.execute(sa.delete(table).where(table.c.id.in_(ids)))

    def work(self) -> None:
        step = random.choices((self.boot, self.fail, self.purge_newest), (6, 1, 2))[0]
        try:
            step()
        except sa.exc.OperationalError as error:
            if error.orig is None or error.orig.args[0] != 1213:  # a failed certification
                raise

    def close(self) -> None:
        self.api.dispose()
        self.cell.dispose()


@pytest.fixture
def nova(galera: Galera) -> Galera:
    """Create Nova's databases on the cluster, with two cells and some services."""
    for name in (API, CELL):
        galera.nodes[0].drop_database(name)
        galera.nodes[0].create_database(name)
    api, cell = (sa.create_engine(galera.nodes[0].url(name)) for name in (API, CELL))
    tables.api.create_all(api)
    tables.cell.create_all(cell)
    cells = [
        {"id": 1, "uuid": CELL0, "name": "cell0", "database_connection": "sqlite:////nowhere/cell0", "disabled": False},
        {"id": 2, "uuid": str(uuid.uuid4()), "name": "cell1", "database_connection": TEMPLATE, "disabled": False},
    ]
    with api.begin() as connection:
        connection.execute(sa.insert(tables.cell_mappings), [{**row, "transport_url": "none:///"} for row in cells])
    services = [{"uuid": str(uuid.uuid4()), "host": f"compute-{number}", "binary": "nova-compute"} for number in "123"]
    with cell.begin() as connection:
        connection.execute(sa.insert(tables.services), [{**row, "deleted": 0} for row in services])
    api.dispose()
    cell.dispose()
    galera.settle()
    return galera


@pytest.fixture
def writers(nova: Galera) -> Iterator[list[Writer]]:
    made = [Writer(node) for node in nova.nodes]
    yield made
    for writer in made:
        writer.close()


@pytest.fixture
def views(nova: Galera, tmp_path: Path) -> Iterator[list[Resources]]:
    """Yield stackmend's resources at each node in turn."""
    with ExitStack() as stack:
        made = []
        for number, node in enumerate(nova.nodes):
            folder = tmp_path / str(number)
            folder.mkdir()
            options = {"nova": {"api_database_connection": node.url(API), "database_connection": node.url(CELL)}}
            made.append(configured(DiscoverHosts, options, folder))
            stack.callback(made[-1].close)
        yield made


@pytest.fixture
def journal(galera: Galera, database_name: str) -> Iterator[list[Database]]:
    """Yield one journal through each node."""
    made = [Database(open_engine(url)) for url in galera.urls(database_name)]
    migrations.upgrade(made[0])
    controls.ensure(made[0], [handler.name for handler in HANDLERS])
    galera.settle()
    yield made
    for database in made:
        database.close()


def marks(resources: Resources) -> dict[str, Watermark]:
    return {one.database: one for one in nova_watermarks(resources)}


def all_falls(before: Mapping[str, Watermark], now: Mapping[str, Watermark]) -> list[str]:
    return [reason for name, mark in before.items() if name in now for reason in falls(mark, now[name])]


def test_writers_at_every_node_are_no_fall(
    writers: Sequence[Writer], views: Sequence[Resources], journal: Sequence[Database]
) -> None:
    ended = threading.Event()
    counted = [0, 0]

    def work(writer: Writer) -> None:
        while not ended.is_set():
            writer.work()
            counted[0] += 1

    def observe(number: int) -> list[str]:
        """Observe as one replica, whose reads and writes go to the nodes in turn."""
        found: list[str] = []
        turn = number
        while not ended.is_set():
            turn += 1
            view, memory = views[turn % 3], journal[(turn + number) % 3]
            found += guard.check(memory, view, [nova_watermarks], lambda: HANDLERS, f"replica-{number}")
            counted[1] += 1
        return found

    timer = threading.Timer(SECONDS, ended.set)
    timer.start()
    with ThreadPoolExecutor(6) as pool:
        work_done = [pool.submit(work, writer) for writer in writers]
        observed = [pool.submit(observe, number) for number in range(3)]
    found = [reason for future in observed for reason in future.result()]
    for future in work_done:
        future.result()
    assert found == []
    assert controls.read(journal[0])["discover_hosts"].broken is False
    assert counted[0] > 100, "the writers worked"
    assert counted[1] > 30, "the replicas observed"


@pytest.mark.parametrize("donor", [0, 1, 2])
def test_an_older_dump_is_a_fall_at_every_node(
    nova: Galera, writers: Sequence[Writer], views: Sequence[Resources], donor: int
) -> None:
    for writer in writers:
        for _ in range(5):
            writer.boot()
    dumps = {name: dump(nova.nodes[donor], name) for name in (API, CELL)}
    for writer in writers:
        writer.boot()
        writer.boot()
    before = [marks(view) for view in views]
    assert [all_falls(one, marks(other)) for one in before for other in views] == [[]] * 9

    for name, text in dumps.items():
        nova.nodes[(donor + 1) % 3].execute(text, name)

    labels = ["instance_mappings", "instances", "request_specs"]
    for one in before:
        for view in views:
            reasons = all_falls(one, marks(view))
            assert sorted(reason.partition(":")[0] for reason in reasons) == labels


def test_a_node_that_lags_is_no_fall(nova: Galera, writers: Sequence[Writer], views: Sequence[Resources]) -> None:
    writers[0].boot()
    assert set(marks(views[1])) == {"nova_api", "cell:cell1"}
    with writers[1].api.connect() as backup:
        backup.exec_driver_sql("FLUSH TABLES WITH READ LOCK")
        for _ in range(5):
            writers[0].boot()
        before = marks(views[0])
        end = threading.Timer(2, lambda: backup.exec_driver_sql("UNLOCK TABLES"))
        end.start()
        try:
            now = marks(views[1])
        finally:
            end.join()
    assert set(now) == {"nova_api", "cell:cell1"}
    assert all_falls(before, now) == []


def dump(node: Node, name: str) -> str:
    command: list[str | Path] = [node.dump, *node.client_arguments, name]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout
