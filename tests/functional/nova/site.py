"""One simulated cloud for all tests of a process: a new Placement for each test takes longer than most tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron

#: the cell of each host
Hosts = Mapping[str, str]


class Site:
    """Returns its cloud to the state in which a test begins.

    :param cloud: started, and empty
    """

    def __init__(self, cloud: NovaSimulation) -> None:
        self.cloud = cloud
        engines = {"nova_api": cloud.api, **cloud.cells}
        self._files = {name: Path(str(engine.url.database)) for name, engine in engines.items()}
        self._files["placement"] = cloud.placement.database
        self._copies = {(): self._copy()}

    def show(self, hosts: Hosts) -> NovaSimulation:
        """Return the cloud with these hosts, which are mapped and a day old, and nothing else."""
        self.cloud.placement.start()
        self.cloud.neutron.close()
        self.cloud.neutron = Neutron()
        wanted = tuple(hosts.items())
        if wanted not in self._copies:
            self._restore(self._copies[()])
            with self.cloud.ago(days=1):
                for host, cell in wanted:
                    self.cloud.add_compute(host, cell)
                    self.cloud.map_host(host)
            self._copies[wanted] = self._copy()
        self._restore(self._copies[wanted])
        self.cloud.take()
        return self.cloud

    def _copy(self) -> Mapping[str, sqlite3.Connection]:
        copies = {name: sqlite3.connect(":memory:") for name in self._files}
        for name, file in self._files.items():
            with closing(sqlite3.connect(file)) as connection:
                connection.backup(copies[name])
        return copies

    def _restore(self, copies: Mapping[str, sqlite3.Connection]) -> None:
        for name, file in self._files.items():
            with closing(sqlite3.connect(file, timeout=30)) as connection:
                copies[name].backup(connection)
