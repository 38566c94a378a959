"""Nova's schemas from release 25 (Yoga) to 34, as Nova's own migrations make them, on MariaDB and PostgreSQL: every task works.

The migrations are those of the newest release, which hold the whole chain. A simulated cloud with the real Placement then
writes its rows into these databases; the schema refuses them where it wants more than is written.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.nova import revisions, tables
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.store import Store
from tests.cloud.packages import Packages
from tests.program import Program, only
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.server import clean_environment

Server = MariaDB | PostgreSQL

#: The last revisions of nova_api and of a cell in each release. Source: the only revision that no other follows in
#: ``nova/db/{api,main}/migrations/versions`` of the newest distribution of each: 25.3.0, 26.3.0, 27.5.1, 28.3.1, 29.4.0,
#: 30.3.0, 31.3.1, 32.2.1, 33.0.2, 34.0.0.
RELEASES = {
    25: ("b30f573d3377", "16f1fbcab42b"),
    26: ("b30f573d3377", "ccb0fa1a2252"),
    27: ("b30f573d3377", "960aac0e09ea"),
    28: ("cdeec0c85668", "1acf2c98e646"),
    29: ("cdeec0c85668", "13863f4e1612"),
    30: ("cdeec0c85668", "13863f4e1612"),
    31: ("cdeec0c85668", "2903cd72dc14"),
    32: ("cdeec0c85668", "2903cd72dc14"),
    33: ("cdeec0c85668", "2903cd72dc14"),
    34: ("cdeec0c85668", "ab450ba04102"),
}
PAIRS = list(dict.fromkeys(RELEASES.values()))

TASKS = (
    "discover_hosts",
    "sync_aggregates",
    "map_instances",
    "heal_instance_mappings",
    "heal_allocations",
    "audit_allocations",
    "archive_deleted_rows",
    "purge",
)

#: Runs in the services' environment: kind, URL, revision.
MIGRATE = """
import pathlib, sys
import nova, sqlalchemy
from alembic import command, config
kind, url, revision = sys.argv[1:]
alembic = config.Config(pathlib.Path(nova.__file__).parent / "db" / kind / "alembic.ini")
alembic.attributes["configure_logger"] = False
with sqlalchemy.create_engine(url).begin() as connection:
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, revision)
"""


class Ladder:
    """Two databases that are migrated step by step, and copied at each: a migration from the start takes long.

    :param server: where they are
    """

    def __init__(self, server: Server, python: Path) -> None:
        self._server = server
        self._python = python
        self._at: tuple[str, str] | None = None

    def copy(self, revisions: tuple[str, str], api: str, *cells: str) -> None:
        """Make databases of these names with these revisions of nova_api and of a cell."""
        if self._at is None or PAIRS.index(self._at) > PAIRS.index(revisions):
            for kind in ("api", "main"):
                self._server.drop_database(f"ladder_{kind}")
                self._server.create_database(f"ladder_{kind}")
        for kind, revision in zip(("api", "main"), revisions, strict=True):
            self._migrate(kind, revision)
        self._at = revisions
        for name, kind in ((api, "api"), *((cell, "main") for cell in cells)):
            self._server.drop_database(name)
            self._copy(f"ladder_{kind}", name)

    def _migrate(self, kind: str, revision: str) -> None:
        command = [str(self._python), "-c", MIGRATE, kind, self._server.url(f"ladder_{kind}"), revision]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    def _copy(self, source: str, target: str) -> None:
        if isinstance(self._server, PostgreSQL):
            self._server.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')
            return
        self._server.create_database(target)
        arguments = [str(self._server.dump), *self._server.client_arguments, "--skip-comments", source]
        dump = subprocess.run(arguments, env=clean_environment(), capture_output=True, text=True, check=True).stdout
        self._server.execute(dump, target)


def _write_enum(
    _connection: object, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    """Write ``migration_type`` as the ENUM that it is on PostgreSQL; handlers only read it, as text."""
    return statement.replace("%(migration_type)s::VARCHAR", "%(migration_type)s::migration_type"), parameters


class ServerStore(Store):
    """The rows of the simulated cloud, in databases that are there.

    :param urls: by database
    """

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self.age = timedelta(0)
        self.api = sa.create_engine(urls["nova_api"])
        self.cells = {name: sa.create_engine(url) for name, url in urls.items() if name != "nova_api"}
        for engine in self.cells.values():
            if engine.dialect.name == "postgresql":
                sa.event.listen(engine, "before_cursor_execute", _write_enum, retval=True)

    def create(self) -> None:
        """They are made."""

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return self._urls[database]


class MigratedCloud(NovaSimulation):
    """A simulated cloud in databases that Nova has migrated."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        super().__init__(folder)
        self._store = ServerStore(urls)


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has Nova."""
    packages = Packages()
    packages.install()
    return packages.bin / "python"


@pytest.fixture(scope="module", params=["mariadb", "postgresql"])
def ladder(request: pytest.FixtureRequest, python: Path) -> Ladder:
    """The databases on one of the servers."""
    return Ladder(request.getfixturevalue(request.param), python)


@pytest.fixture
def cloud(
    ladder: Ladder, request: pytest.FixtureRequest, tmp_path: Path, pair: tuple[str, str]
) -> Iterator[MigratedCloud]:
    """A cloud at two revisions, with a host of each cell."""
    server: Server = request.getfixturevalue(request.node.callspec.params["ladder"])
    names = {"nova_api": "at_api", **{cell: f"at_{cell}" for cell in ("cell0", "cell1", "cell2")}}
    ladder.copy(pair, *names.values())
    folder = tmp_path / "cloud"
    folder.mkdir()
    made = MigratedCloud(folder, {database: server.url(name) for database, name in names.items()})
    made.start()
    for host, cell in (("compute-1", "cell1"), ("compute-2", "cell2")):
        made.add_compute(host, cell)
        made.map_host(host)
    yield made
    made.stop()
    for name in names.values():
        server.drop_database(name)


def installation(cloud: MigratedCloud, folder: Path) -> Program:
    """An installation in which all tasks heal."""
    audit: dict[str, object] = {**only(*TASKS), **{f"{task}_mode": "heal" for task in TASKS}}
    return Program(folder, {**cloud.options(), "audit": audit})


def children(cloud: MigratedCloud, cell: str, instance: str) -> None:
    """Give an instance rows in tables that only archiving knows, one of them two steps away."""
    with cloud.cells[cell].begin() as connection:
        meta = sa.MetaData()
        meta.reflect(connection, only=["instance_actions", "instance_actions_events", "instance_faults"])
        actions, events, faults = (
            meta.tables[name] for name in ("instance_actions", "instance_actions_events", "instance_faults")
        )
        action = connection.execute(sa.insert(actions).values(instance_uuid=instance, action="create", deleted=0))
        [number] = action.inserted_primary_key or [None]
        connection.execute(sa.insert(events).values(event="compute__do_build", action_id=number, deleted=0))
        connection.execute(sa.insert(faults).values(instance_uuid=instance, code=500, deleted=0))


def count(cloud: MigratedCloud, cell: str, *names: str) -> dict[str, int]:
    """Count the rows of tables."""
    with cloud.cells[cell].connect() as connection:
        return {name: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) or 0 for name in names}


def healed(lines: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return which handler healed what problem."""
    return {(line["handler"], line["problem"]) for line in lines if line["outcome"] == "healed"}


def test_these_are_the_revisions_that_are_known() -> None:
    """What is known besides are steps on the way, at which no release ended."""
    assert {api for api, _cell in PAIRS} == revisions.API
    assert {cell for _api, cell in PAIRS} == revisions.CELL - {"1b91788ec3a6", "d60bddf7a903"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "pair", PAIRS, ids=lambda pair: "-".join(map(str, (n for n, p in RELEASES.items() if p == pair)))
)
def test_every_task_looks_and_heals(cloud: MigratedCloud, tmp_path: Path, pair: tuple[str, str]) -> None:
    assert pair in PAIRS
    with cloud.ago(days=100):
        purged = cloud.boot("compute-1")
        children(cloud, "cell1", purged)
        cloud.delete(purged)
    with cloud.ago(days=1):
        keeper, unmapped, lost, poor, moved = (cloud.boot("compute-1") for _ in range(5))
        leaked = cloud.boot("compute-2")
        cloud.delete(leaked, leak_allocation=True)
        aggregate = cloud.create_aggregate("rack")
    cloud.evacuate(moved, "compute-1")
    mappings = tables.instance_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(mappings).where(mappings.c.instance_uuid == unmapped))
        connection.execute(sa.update(mappings).where(mappings.c.instance_uuid == lost).values(cell_id=None))
    cloud.hold(poor, {})
    cloud.add_host_to_aggregate(aggregate, "compute-1", placement_ok=False)
    cloud.add_compute("compute-3", "cell2")
    with installation(cloud, tmp_path / "stackmend") as program:
        heal = program.run("sweep", "-f", "json")
        assert heal.returncode == 0, heal.stdout + heal.stderr
        assert "has no" not in heal.stderr, "a table or column is missing"
        lines = program.json("history", "--limit", "1000")
        assert cloud.host_mappings()["compute-3"] == "cell2"
        assert cloud.provider_aggregates(cloud.node("compute-1").uuid) == {aggregate}
        assert [cloud.instance_mapping(uuid) for uuid in (unmapped, lost)] == ["cell1", "cell1"]
        assert cloud.allocation(poor) == cloud.allocation(keeper) != {}
        assert cloud.allocation(leaked) == {}
        rows = ("instances", "instance_actions", "instance_actions_events", "instance_faults")
        shadows = tuple(f"shadow_{name}" for name in rows)
        # What is archived is old enough to be purged at the same time.
        archived = {**dict.fromkeys(rows, 0), "instances": 5, **dict.fromkeys(shadows, 0)}
        found = count(cloud, "cell1", *rows, *shadows)
        assert {name: found[name] for name in rows} == {name: archived[name] for name in rows}
        assert found["shadow_instances"] == 0
        assert {handler for handler, _problem in healed(lines)} == set(TASKS)
        again = program.run("sweep", "--audit", "-f", "json")
        assert again.returncode == 0, again.stdout + again.stderr
