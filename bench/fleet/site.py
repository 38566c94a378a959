"""The databases and the Placement service that the fleet is in, and the two programs installed beside them.

Nova itself does not run, nor does keystone: nova-manage and stackmend need nova_api, the cells and Placement, which takes
anybody's word for who they are (``noauth2``) and is otherwise the real service behind uwsgi. Neither needs a broker. Neutron
is a stand-in in this process, with a port of each live instance: stackmend asks it before it gives something to an instance,
nova-manage is told to leave ports out.
"""

from __future__ import annotations

import configparser
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from bench.fleet import rows
from bench.fleet.rows import PluggedPort, Sizes
from bench.fleet.usage import Usage, run
from bench.report import Failed
from handlers.nova.simulation.neutron import Neutron
from tests.cloud import schemas
from tests.cloud.packages import Packages
from tests.cloud.processes import Processes
from tests.cloud.release import NEWEST
from tests.servers.mariadb import MariaDB
from tests.servers.server import HOST, clean_environment, free_port

_SCHEMAS: Mapping[str, tuple[str, ...]] = {
    rows.API: ("nova-manage", "--config-file", "nova.conf", "api_db", "sync"),
    rows.CELL0: ("nova-manage", "--config-file", "nova.conf", "db", "sync", "--local_cell"),
    rows.PLACEMENT: ("placement-manage", "--config-dir", "placement", "db", "sync"),
}
_REQUEST = re.compile(r"^\[pid: ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program took, and what it asked of others.

    :param queries: MariaDB's ``Questions``, Placement's own included
    :param requests: to Placement
    """

    usage: Usage
    queries: int
    requests: int


class FleetNeutron(Neutron):
    """A Neutron with one port of each instance, which it finds by the instance at once."""

    def __init__(self) -> None:
        super().__init__()
        self._by_instance: dict[str, str] = {}

    def fill(self, ports: Iterable[PluggedPort]) -> None:
        """Have exactly these ports."""
        self.ports.clear()
        self.network["id"] = rows.NETWORK
        self._by_instance = {
            port.instance: self.add(
                id=port.id,
                device_id=port.instance,
                device_owner="compute:nova",
                status="ACTIVE",
                binding_host_id=port.host,
            )
            for port in ports
        }

    def of(self, instance: str) -> list[str]:
        return [self._by_instance[instance]] if instance in self._by_instance else []


class Site:
    """One site, in a folder.

    :param stackmend: the program
    :param options: stackmend's, by group, beside where things are
    :raises Missing, DidNotStart: when a server cannot be had
    """

    def __init__(self, folder: Path, stackmend: Path, options: Mapping[str, Mapping[str, object]]) -> None:
        self._folder = folder
        self._stackmend = stackmend
        self._options = options
        self._packages = Packages()
        self._port = free_port()
        (folder / "logs").mkdir()
        (folder / "placement").mkdir()
        self._processes = Processes(self._packages.bin, folder)
        self._mariadb = MariaDB(folder / "mariadb")
        self._neutron = FleetNeutron()

    def up(self) -> None:
        """Install the services' packages, start MariaDB and let both programs compile what they import."""
        self._packages.install()
        self._mariadb.start()
        self._configure()
        self._run([self._packages.bin / "nova-manage", "--version"])
        self._run([self._stackmend, "--config-file", "stackmend.conf", "sweep", "discover_hosts"])

    def down(self) -> None:
        """End everything."""
        self._processes.kill_all()
        self._mariadb.kill()
        self._neutron.close()

    def load(self, sizes: Sizes, drift: bool, now: datetime) -> None:
        """Make the fleet, in place of the one before."""
        if "placement" in self._processes.names:
            self._processes.remove("placement")
        for database, migration in _SCHEMAS.items():
            names = [database, rows.CELL] if database == rows.CELL0 else [database]
            with self._packages.lock():
                schemas.create(self._mariadb, self._packages.schemas, names, partial(self._migrate, migration))
        # It writes its classes and traits when it starts, and knows them by their numbers.
        self._processes.add_wsgi(
            "placement",
            # As operators run it (openstack-k8s-operators, SAP's helm charts): several processes, in each one request at a
            # time. With threads one process may have all requests while another has none.
            replace(NEWEST.apis["placement"], processes=4, threads=1),
            self._port,
            OS_PLACEMENT_CONFIG_DIR=str(self._folder / "placement"),
        )
        self._processes.wait("placement")
        url = self._mariadb.url("{}")
        self._mariadb.execute(";\n".join(rows.statements(sizes, drift, now, url)) + ";\n")
        self._neutron.fill(rows.ports(sizes))
        with suppress(FileNotFoundError):
            (self._folder / "journal.sqlite").unlink()

    def number(self, sql: str) -> int:
        """Return what a query counts."""
        return int(self._mariadb.execute(sql))

    def nova_manage(self, arguments: Sequence[str]) -> Cost:
        """Run nova-manage."""
        return self._measure([self._packages.bin / "nova-manage", "--config-file", "nova.conf", *arguments])

    def stackmend(self, arguments: Sequence[str]) -> Cost:
        """Run stackmend."""
        return self._measure([self._stackmend, "--config-file", "stackmend.conf", *arguments])

    def _measure(self, command: Sequence[str | Path]) -> Cost:
        queries, requests = self._questions(), self._requests()
        usage = self._run(command)
        return Cost(usage, self._questions() - queries, self._requests() - requests)

    def _run(self, command: Sequence[str | Path]) -> Usage:
        # Python compiles what it imports once and keeps it, as where a service is installed.
        environment = {name: value for name, value in clean_environment().items() if name != "PYTHONDONTWRITEBYTECODE"}
        return run(command, environment | {"PYTHONWARNINGS": "ignore"}, self._folder)

    def _migrate(self, tool: Sequence[str]) -> None:
        usage = self._run([self._packages.bin / tool[0], *tool[1:]])
        if usage.code:
            raise Failed(f"{' '.join(tool)} failed:\n{usage.complaint[-2000:]}")

    def _questions(self) -> int:
        return int(self._mariadb.execute("SHOW GLOBAL STATUS LIKE 'Questions'").split()[1])

    def _requests(self) -> int:
        """Count the requests that Placement has logged; it does so just after it has answered."""
        log = self._folder / "logs" / "placement.log"
        seen = -1
        while (now := len(_REQUEST.findall(log.read_text(errors="replace")))) != seen:
            seen = now
            time.sleep(0.1)
        return seen

    def _configure(self) -> None:
        database, endpoint = self._mariadb.url, f"http://{HOST}:{self._port}"
        _write(
            self._folder / "placement" / "placement.conf",
            {"placement_database": {"connection": database(rows.PLACEMENT)}, "api": {"auth_strategy": "noauth2"}},
        )
        _write(
            self._folder / "nova.conf",
            {
                "DEFAULT": {"state_path": self._folder, "transport_url": "fake:///"},
                "api_database": {"connection": database(rows.API)},
                "database": {"connection": database(rows.CELL0)},
                "placement": {"auth_type": "admin_token", "endpoint": endpoint, "token": "admin"},
                "oslo_concurrency": {"lock_path": self._folder},
            },
        )
        _write(
            self._folder / "stackmend.conf",
            {
                "nova": {"config_file": self._folder / "nova.conf"},
                "journal": {"connection": f"sqlite:///{self._folder}/journal.sqlite"},
                "openstack": {"network_endpoint_override": self._neutron.url},
                **self._options,
            },
        )


def _write(path: Path, options: Mapping[str, Mapping[str, object]]) -> None:
    parser = configparser.RawConfigParser(default_section="")
    parser.read_dict({group: {name: str(value) for name, value in more.items()} for group, more in options.items()})
    with path.open("w") as file:
        path.chmod(0o600)
        parser.write(file)
