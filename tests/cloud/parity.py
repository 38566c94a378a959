"""Copies of a cloud's databases, on which two programs heal the same drift and are compared row by row.

A :class:`Copy` has databases of its own for everything that is healed (nova_api, the cells, Placement), beside the real ones
on the same server, and a real Placement of its own on top; Keystone and Neutron are the cloud's: a copy's servers have only
the ports that are bound to them now (:meth:`~tests.cloud.wreckage.Wreckage.plugged`). Its ``nova.conf`` and its
``cell_mappings`` lead there, so a program that is run on a copy cannot tell it from the cloud, and cannot touch the cloud.

:func:`photograph` keeps what the cloud's databases hold at a moment; :meth:`Copy.load` gives a copy that content, as often
as wanted, in about a second. All dates in Nova's databases go back by :data:`DAYS` then: young objects are left alone by
whoever is careful, and rows that were deleted today are not archived.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.cloud.configuration import Options, merge
from tests.cloud.control_plane import CELLS, ControlPlane, cell_database
from tests.cloud.seed import together
from tests.program import Program, only
from tests.servers.server import clean_environment

#: The databases that drift, and are healed.
DATABASES = ("nova_api", "nova_cell0", *(f"nova_{cell}" for cell in CELLS), "placement")
#: Those that have a peer in nova-manage, and heal_instance_mappings, which has none.
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
#: How long ago all of it happened, on a copy.
DAYS = 10

#: A row as names and values.
Row = tuple[tuple[str, str], ...]
#: The rows of each table, by ``database.table``, and how often each is there.
Content = Mapping[str, Counter[Row]]
#: What a database held, as statements that bring it back into empty tables.
Photograph = Mapping[str, str]

#: Columns that say when, how often or as which one a row was written; by table, else by database.
_WRITING = {
    "nova_api": frozenset({"created_at", "updated_at", "id"}),
    "nova_api.cell_mappings": frozenset({"created_at", "updated_at", "database_connection"}),
    "placement": frozenset({"created_at", "updated_at", "id", "generation"}),
    **{f"nova_{cell}.compute_nodes": frozenset({"updated_at"}) for cell in CELLS},
}
#: Tables with references to such an id: what it refers to is compared instead.
_QUERIES = {
    "placement.consumers": "SELECT c.uuid, p.external_id AS project, u.external_id AS user, c.consumer_type_id"
    " FROM consumers c JOIN projects p ON p.id = c.project_id JOIN users u ON u.id = c.user_id",
    "placement.resource_provider_aggregates": "SELECT m.resource_provider_id, a.uuid"
    " FROM resource_provider_aggregates m JOIN placement_aggregates a ON a.id = m.aggregate_id",
}


def photograph(cloud: ControlPlane) -> Photograph:
    """Keep what the databases hold now."""
    return {name: _dump(cloud, name, "--no-create-info", "--complete-insert") for name in DATABASES}


class Copy:
    """One copy: make it, ``load`` it, heal it, read it; ``close`` it.

    :param name: prefix of its databases
    :param folder: for stackmend's configuration and journal
    """

    def __init__(self, cloud: ControlPlane, name: str, folder: Path) -> None:
        self._cloud = cloud
        self._name = name
        self._folder = folder
        self._engines = {database: sa.create_engine(self.url(database)) for database in DATABASES}
        described = together(*(partial(self._create, database) for database in DATABASES))
        self._dates: dict[str, dict[str, list[str]]] = dict(zip(DATABASES, described, strict=True))
        databases = cloud.account_databases
        del databases["octavia"]
        cloud.account.allow({key: [f"{name}_{one}" for one in names] for key, names in databases.items()})
        self._endpoint = cloud.add_api(
            "placement", self._placement, {"placement_database": {"connection": self.url("placement")}}
        )
        self._options: Options = {
            "api_database": {"connection": self.url("nova_api")},
            "database": {"connection": self.url("nova_cell0"), "max_retries": 1, "retry_interval": 1},
            "placement": {"endpoint_override": self._endpoint},
        }
        self.nova_conf = cloud.derive("nova", f"nova-{name}", self._options)
        self.placement: Any = cloud.connection(placement_endpoint_override=self._endpoint).placement

    def _create(self, database: str) -> dict[str, list[str]]:
        """Create an empty copy of a database, and return its tables and their dates."""
        self._cloud.mariadb.drop_database(f"{self._name}_{database}")
        self._cloud.mariadb.create_database(f"{self._name}_{database}")
        self.execute(_dump(self._cloud, database, "--no-data"), database)
        return _dates(self._engines[database])

    @property
    def _placement(self) -> str:
        return f"placement-{self._name}"

    def url(self, database: str) -> str:
        """Where this copy of a database is."""
        return self._cloud.database_url(f"{self._name}_{database}")

    def close(self) -> None:
        """Leave nothing behind."""
        self._cloud.remove_api(self._placement)
        for database, engine in self._engines.items():
            engine.dispose()
            self._cloud.mariadb.drop_database(f"{self._name}_{database}")

    def load(self, taken: Photograph) -> None:
        """Become what the cloud was then, but older, with a journal that knows no younger databases."""
        for file in self._folder.glob("journal.sqlite*"):
            file.unlink()
        self._cloud.start_service(self._placement)  # it writes into an empty database until it answers
        for database, statements in taken.items():
            tables = self._dates[database]
            script = ["SET foreign_key_checks = 0", *(f"DELETE FROM `{table}`" for table in tables), statements]
            script += [_age(table, dates) for table, dates in tables.items() if dates and database != "placement"]
            self.execute(";\n".join(script), database)
        for cell in ("cell0", *CELLS):
            self.lead(cell, cell_database(f"{self._name}_nova_{cell}"))

    def lead(self, cell: str, url: str) -> None:
        """Say where a cell's database is."""
        self.execute(f"UPDATE cell_mappings SET database_connection = '{url}' WHERE name = '{cell}'")

    def execute(self, sql: str, database: str = "nova_api") -> str:
        """Run statements; rows as tab separated lines."""
        return self._cloud.mariadb.execute(sql, f"{self._name}_{database}")

    def nova_manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run nova-manage, whatever it returns."""
        return self._cloud.nova_manage(*arguments, conf=self.nova_conf)

    def stackmend(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run stackmend with every task in heal mode, whatever it returns."""
        return self.program().run(*arguments)

    def program(self) -> Program:
        """An installation of stackmend beside this copy."""
        modes = {f"{task}_mode": "heal" for task in TASKS}
        return Program(
            self._folder,
            merge(
                self._cloud.account.options(),
                {
                    "nova": {
                        "api_database_connection": self._cloud.account.url(f"{self._name}_nova_api"),
                        "database_connection": self._cloud.account.url(f"{self._name}_nova_cell0"),
                    },
                    "openstack": {"placement_endpoint_override": self._endpoint},
                    "audit": {**only(*TASKS), **modes, "archive_deleted_rows_after_days": 1, "purge_after_days": 2},
                    "engine": {"breaker_count": 100_000, "heals_per_hour": 0},
                },
            ),
        )

    def content(self) -> Content:
        """Return every row of every table, but for what may differ between two programs that did the same.

        Left out are, in nova_api and Placement, when a row was written, its number (what points to it is followed) and its
        generation; the address of a cell's database, which is another one on each copy; and when a compute node was touched.
        All else of the cells is compared, ids and dates too: archiving has to keep them.
        """
        found: dict[str, Counter[Row]] = {}
        for database, engine in self._engines.items():
            with engine.connect() as connection:
                for table in self._dates[database]:
                    name = f"{database}.{table}"
                    query = sa.text(_QUERIES.get(name, f"SELECT * FROM `{table}`"))
                    left_out = _WRITING.get(name, _WRITING.get(database, frozenset()))
                    found[name] = Counter(
                        tuple((column, str(value)) for column, value in row.items() if column not in left_out)
                        for row in connection.execute(query).mappings()
                    )
        return found


@dataclass(frozen=True)
class Difference:
    """The rows of a table that only one of two copies has, some columns of them."""

    theirs: frozenset[tuple[str, ...]] = frozenset()
    ours: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """What became of the same drift on two copies.

    :param before: the content of both
    :param nova_manage: one for each run, in order
    :param stackmend: likewise
    """

    before: Content
    theirs: Content
    ours: Content
    nova_manage: Sequence[subprocess.CompletedProcess[str]]
    stackmend: Sequence[subprocess.CompletedProcess[str]]

    def found(self) -> list[dict[str, Any]]:
        """What stackmend's sweeps said."""
        return [line for done in self.stackmend for line in json.loads(done.stdout)]


class Pair:
    """A copy for nova-manage and one for stackmend."""

    def __init__(self, theirs: Copy, ours: Copy) -> None:
        self.theirs = theirs
        self.ours = ours

    def load(self, taken: Photograph) -> None:
        """Make both what the cloud was then."""
        self.theirs.load(taken)
        self.ours.load(taken)

    def execute(self, sql: str, database: str = "nova_api") -> None:
        """Break both in the same way."""
        self.theirs.execute(sql, database)
        self.ours.execute(sql, database)

    def heal(self, nova_manage: Sequence[str], stackmend: Sequence[str]) -> Outcome:
        """Run each program on its copy, both at the same time.

        :param nova_manage: command lines
        :param stackmend: tasks to sweep, one after the other
        """
        before = self.ours.content()
        assert differences(self.theirs.content(), before) == {}, "they start with the same"
        theirs, ours = together(
            lambda: [self.theirs.nova_manage(*line.split()) for line in nova_manage],
            lambda: [self.ours.stackmend("sweep", task, "-f", "json") for task in stackmend],
        )
        for done in (*theirs, *ours):
            print(done.args, done.returncode, done.stdout, done.stderr, sep="\n")
        return Outcome(before, self.theirs.content(), self.ours.content(), theirs, ours)


def differences(theirs: Content, ours: Content, **columns: Sequence[str]) -> dict[str, Difference]:
    """Compare all rows of all tables; return what differs, and nothing for a table that does not.

    :param columns: what to show of a row, by table; everything otherwise
    """
    assert theirs.keys() == ours.keys()
    assert sum(rows.total() for rows in theirs.values()) > 500, "there is something to compare"
    found = {}
    for table in theirs:
        shown = columns.get(table.partition(".")[2])
        if theirs[table] != ours[table]:
            only_theirs, only_ours = theirs[table] - ours[table], ours[table] - theirs[table]
            found[table] = Difference(_shown(only_theirs, shown), _shown(only_ours, shown))
    return found


def _shown(rows: Counter[Row], columns: Sequence[str] | None) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(value for name, value in row if columns is None or name in columns) for row in rows)


def _dates(engine: sa.Engine) -> dict[str, list[str]]:
    """Return the tables, and which columns of each are dates."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT t.table_name, c.column_name FROM information_schema.tables t"
                " LEFT JOIN information_schema.columns c ON c.table_schema = t.table_schema"
                " AND c.table_name = t.table_name AND c.data_type IN ('datetime', 'timestamp')"
                " WHERE t.table_schema = DATABASE() ORDER BY 1, 2"
            )
        )
        found: dict[str, list[str]] = {}
        for table, column in rows:
            found.setdefault(table, []).extend([column] if column else [])
    return found


def _age(table: str, dates: list[str]) -> str:
    return f"UPDATE `{table}` SET " + ", ".join(f"`{date}` = `{date}` - INTERVAL {DAYS} DAY" for date in dates)


def _dump(cloud: ControlPlane, database: str, *options: str) -> str:
    mariadb = cloud.mariadb
    return subprocess.run(
        [
            *(str(mariadb.dump), *mariadb.client_arguments, "--skip-comments", "--single-transaction"),
            *(*options, database),
        ],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
