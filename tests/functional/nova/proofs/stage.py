"""A simulated cloud that returns to an earlier state, so that one cloud serves many tests."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from handlers.base import Handler
from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation
from handlers.testing import configured
from tests.compute import Compute

#: the rows of each table, by ``database.table``
Rows = Mapping[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Scene:
    """The whole state of a cloud."""

    rows: Rows
    ports: Mapping[str, dict[str, Any]]
    volumes: Mapping[str, dict[str, Any]]
    attachments: Mapping[str, dict[str, Any]]

    def differing(self, other: Scene) -> set[str]:
        """Return the tables whose rows differ, and ``neutron.ports``, ``cinder.volumes``, ``cinder.attachments``."""
        names = {name for name in {*self.rows, *other.rows} if self.rows.get(name) != other.rows.get(name)}
        outside = {
            "neutron.ports": self.ports != other.ports,
            "cinder.volumes": self.volumes != other.volumes,
            "cinder.attachments": self.attachments != other.attachments,
        }
        return names | {name for name, differs in outside.items() if differs}


@dataclass
class Stage:
    """A cloud, its Neutron and its Cinder, an API of Nova beside it, and the options of the handler under test."""

    cloud: NovaSimulation
    folder: Path
    options: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        databases = {"nova_api": self.cloud.api, **self.cloud.cells}
        self._files = {name: Path(str(engine.url.database)) for name, engine in databases.items()}
        self._files["placement"] = self.cloud.placement.database
        self._rows: dict[str, tuple[int, Rows]] = {}
        self._watched = {
            name: sqlite3.connect(file, timeout=30, isolation_level=None) for name, file in self._files.items()
        }
        self._begun: dict[str, tuple[Scene, Scene]] = {}
        self.neutron = self.cloud.neutron
        self.compute = Compute(self.cloud, self.neutron)
        self.cinder = self.cloud.cinder

    def close(self) -> None:
        """Close the port of the API."""
        self.compute.close()
        for connection in self._watched.values():
            connection.close()

    def scene(self) -> Scene:
        """Return the present state."""
        rows = {f"{name}.{table}": found for name in self._files for table, found in self._dump(name).items()}
        found = (self.neutron.ports, self.cinder.volumes, self.cinder.attachments)
        return Scene(rows, *copy.deepcopy(found))

    def show(self, scene: Scene) -> None:
        """Return to an earlier state; start Placement if a test stopped it."""
        self.cloud.placement.start()
        self.options = {}
        self.neutron.faults = {}
        self.compute.faults = {}
        self.cinder.faults = {}
        self.compute.neutron = self.neutron
        self._restore(scene)

    def begin(self, name: str, make: Callable[[NovaSimulation], object]) -> None:
        """Let ``make`` change the cloud. If it has changed an equal cloud before, bring the cloud into that state instead.

        :param name: of the change
        """
        before = self.scene()
        if name in self._begun and not before.differing(self._begun[name][0]):
            self._restore(self._begun[name][1])
            return
        make(self.cloud)
        self._begun[name] = before, self.scene()

    def _restore(self, scene: Scene) -> None:
        self.neutron.ports = copy.deepcopy(dict(scene.ports))
        self.cinder.volumes = copy.deepcopy(dict(scene.volumes))
        self.cinder.attachments = copy.deepcopy(dict(scene.attachments))
        for name in self.scene().differing(scene):
            database, _, table = name.partition(".")
            with closing(sqlite3.connect(self._files[database], timeout=30)) as connection, connection:
                connection.execute("PRAGMA foreign_keys = OFF")
                if name not in scene.rows:
                    connection.execute(f"DROP TABLE {table}")
                    continue
                connection.execute(f"DELETE FROM {table}")
                for row in scene.rows[name]:
                    marks = ", ".join("?" * len(row))
                    connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)

    @contextmanager
    def handler(self, kind: type[Handler]) -> Iterator[Handler]:
        """Make a handler that remembers nothing."""
        options: dict[str, dict[str, object]] = {group: {**values} for group, values in self.cloud.options().items()}
        options["openstack"]["compute_endpoint_override"] = self.compute.url
        for group, values in self.options.items():
            options.setdefault(group, {}).update(values)
        with closing(configured(kind, options, self.folder)) as resources:
            yield kind.from_resources(resources)

    def file(self, database: str) -> Path:
        """Return the file of ``nova_api`` or of a cell."""
        return self._files[database]

    def execute(self, database: str, statement: sa.Executable) -> None:
        """Run a statement in ``nova_api`` or in a cell."""
        engine = self.cloud.api if database == "nova_api" else self.cloud.cells[database]
        with engine.begin() as connection:
            connection.execute(statement)

    def everywhere(self, table: sa.Table, statement: sa.Executable) -> None:
        """Run a statement in each database that has the table."""
        for database in ("nova_api",) if table.metadata is tables.api else tuple(self.cloud.cells):
            self.execute(database, statement)

    def _dump(self, database: str) -> Rows:
        """Return the rows of all tables; read them only if SQLite has seen a write of another connection since."""
        watched = self._watched[database]
        [version] = watched.execute("PRAGMA data_version").fetchone()
        known = self._rows.get(database)
        if known is None or known[0] != version:
            names = [name for (name,) in watched.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            known = self._rows[database] = (
                version,
                {
                    name: watched.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
                    for name in names
                    if not name.startswith("sqlite_")
                },
            )
        return known[1]
