"""A real OpenStack control plane, in private folders and on free ports.

Keystone, Glance, Cinder, Placement, Neutron and Nova with cell0 and two cells are the real services;
only the hypervisor is Nova's fake one. So databases, allocations and notifications are what a real
cloud makes of them, and drift can be made by breaking the cloud, not by writing rows.

The compute services run ``virt/stackmend_fake.py``, with which boot, resize, cold and live
migration, evacuation, shelving and deletion work (an evacuated server ends in SHUTOFF, as Nova
wants it since API version 2.95). Neutron is there even though servers have no network by default:
Nova asks it for ports whenever it deletes or shows a server.

Periodic tasks of nova-compute that repair what tests break are off; a provider still appears as
soon as its compute service starts. ``nova_options`` and ``add_compute(options=...)`` override.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import openstack

from handlers.base import Mode
from tests.cloud import schemas, seed
from tests.cloud.account import SCHEMAS as OURS
from tests.cloud.account import Account
from tests.cloud.configuration import VHOST, Configuration, Options, merge
from tests.cloud.packages import Packages
from tests.cloud.processes import Processes
from tests.cloud.release import Release, chosen
from tests.servers.keeper import keeper
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import HOST, PASSWORD, free_port

T = TypeVar("T")

CELLS = ["cell1", "cell2"]
SCHEMAS = ["keystone", "glance", "cinder", "placement", "nova_api", "nova_cell0", "neutron", "octavia"]
COMPUTES = {"compute-1": "cell1", "compute-2": "cell1", "compute-3": "cell2"}
QUIET: Options = {
    "DEFAULT": {
        "update_resources_interval": -1,
        # _run_pending_deletes writes instances.cleaned and a system_metadata row of deleted instances, minutes later
        "instance_delete_interval": -1,
        "sync_power_state_interval": -1,
        "heal_instance_info_cache_interval": -1,
        "running_deleted_instance_action": "noop",
        "scheduler_instance_sync_interval": -1,
    }
}


class TimedOut(AssertionError):
    """Something did not happen in time."""


class ControlPlane:
    """One cloud. ``up()`` takes about a minute, ``down()`` leaves nothing behind."""

    def __init__(
        self,
        rabbitmq: RabbitMQ,
        mariadb: MariaDB,
        *,
        octavia: bool = False,
        computes: dict[str, str] | None = None,
        nova_options: Options | None = None,
        release: Release | None = None,
    ) -> None:
        self.release = release or chosen()
        self.folder = Path(tempfile.mkdtemp(prefix="stackmend-cloud-"))
        keeper.watch_folder(self.folder)
        self.rabbitmq = rabbitmq
        self.mariadb = mariadb
        self.octavia = octavia
        self.timings: dict[str, float] = {}
        self._computes = dict(COMPUTES if computes is None else computes)
        self._packages = Packages(self.release)
        notifications: Options = {"notifications": {"notification_format": self.release.notification_format}}
        self._configuration = Configuration(
            self.folder, self._packages.venv, rabbitmq, mariadb, merge(QUIET, notifications, nova_options or {})
        )
        self._processes = Processes(self._packages.bin, self.folder, self.release)
        self.account = Account(self._configuration, absent=self.release.absent_tables)
        self._accounts = [self.account]
        self._vhosts: list[str] = []
        self.image_id = ""

    # Where things are

    @property
    def logs(self) -> Path:
        """One file per service."""
        return self._configuration.logs

    @property
    def bin(self) -> Path:
        """The folder of the services' programs, and of those of their administrator."""
        return self._packages.bin

    @property
    def auth_url(self) -> str:
        return self._configuration.auth_url

    @property
    def nova_conf(self) -> Path:
        """Nova's configuration at the API level; its [database] is cell0."""
        return self._configuration.nova

    def cell_conf(self, cell: str) -> Path:
        return self._configuration.cell(cell)

    def compute_conf(self, host: str) -> Path:
        return self._configuration.compute(host)

    @property
    def cinder_conf(self) -> Path:
        return self._configuration.path("cinder", "cinder.conf")

    @property
    def octavia_conf(self) -> Path:
        return self._configuration.octavia

    def database_url(self, name: str) -> str:
        """For nova_api, nova_cell0, nova_cell1, nova_cell2, placement, neutron, octavia ..."""
        return self.mariadb.url(name)

    def transport_url(self, vhost: str = VHOST) -> str:
        """The bus of a cell (``cell1``), or the one of everything else (``api``)."""
        return self.rabbitmq.transport_url(vhost)

    def add_account(self, mode: Mode, name: str) -> Account:
        """Make another account of stackmend, with the documented rights for a mode."""
        account = Account(self._configuration, mode, name, self.release.absent_tables)
        self._accounts.append(account)
        account.create(self.admin, self.account_databases, self._vhosts)
        return account

    @property
    def account_databases(self) -> dict[str, list[str]]:
        """The databases that stackmend reads, by their names in its documentation."""
        cells = [f"nova_{cell}" for cell in ("cell0", *CELLS)]
        return {name: cells if name == "nova_cell1" else [name] for name in OURS}

    def endpoint(self, service: str) -> str:
        """The address of keystone, glance, cinder, placement, nova, neutron or octavia."""
        return self._configuration.endpoint(service)

    def connection(self, **overrides: Any) -> openstack.connection.Connection:
        """A connection of openstacksdk as admin; ``overrides`` as for ``openstack.connect``."""
        arguments: dict[str, Any] = {
            "load_yaml_config": False,
            "load_envvars": False,
            "auth_url": self.auth_url,
            "username": "admin",
            "password": PASSWORD,
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
            "region_name": "RegionOne",
            "identity_api_version": "3",
            "compute_default_microversion": self.release.microversion,
        }
        return openstack.connect(**(arguments | overrides))

    @cached_property
    def admin(self) -> openstack.connection.Connection:
        """One such connection for all who need no other."""
        return self.connection()

    # Up and down

    def up(self) -> None:
        """Start everything. When a step fails, everything is taken down again."""
        try:
            for step in (
                self._install,
                self._prepare,
                self._load,
                self._start_identity,
                self._create_account,
                self._start_services,
                self._wait_for_apis,
                self._seed,
                self._map_hosts,
            ):
                before = time.monotonic()
                step()
                self.timings[step.__name__.strip("_")] = time.monotonic() - before
        except BaseException as error:
            error.add_note(f"The logs of the cloud are kept in {self.down(keep_logs=True)}")
            raise

    def down(self, keep_logs: bool = False) -> Path | None:
        """Kill everything and remove it; with ``keep_logs`` the folder that holds the logs."""
        kept = None
        with ExitStack() as last:  # runs all of it, also when a step fails
            last.callback(keeper.keep_folder, self.folder)
            last.callback(shutil.rmtree, self.folder, ignore_errors=True)
            if self.rabbitmq.running and self.mariadb.running:
                for account in self._accounts:
                    last.callback(account.remove)
            if self.rabbitmq.running:
                while self._vhosts:
                    last.callback(self.rabbitmq.delete_vhost, self._vhosts.pop())
            if self.mariadb.running:
                for name in (*SCHEMAS, *(f"nova_{cell}" for cell in CELLS)):
                    last.callback(self.mariadb.drop_database, name)
            self._processes.kill_all()
            if keep_logs and self.logs.exists():
                kept = Path(tempfile.mkdtemp(prefix="stackmend-cloud-logs-"))
                shutil.copytree(self.logs, kept, dirs_exist_ok=True)
        return kept

    def _install(self) -> None:
        self._packages.install()

    def _prepare(self) -> None:
        self._configuration.write(CELLS)
        seed.write_keys(self._configuration)
        if self.octavia:
            seed.write_certificates(self._configuration)

        def add_vhosts() -> None:
            for vhost in (VHOST, *CELLS):
                self.rabbitmq.add_vhost(vhost)
                self._vhosts.append(vhost)

        add_vhosts()

    def _load(self) -> None:
        with self._packages.lock():
            schemas.load(self._configuration, self._packages.schemas, self.tool, CELLS)

    def _start_identity(self) -> None:
        """Keystone with its first user, while nova-manage makes the cells known."""
        configuration, etc = self._configuration, self.folder / "etc"

        def bootstrap() -> None:
            url = self.auth_url
            self.tool(
                *("keystone-manage", "--config-dir", etc / "keystone", "bootstrap"),
                *("--bootstrap-password", PASSWORD, "--bootstrap-public-url", url),
                *("--bootstrap-internal-url", url, "--bootstrap-admin-url", url),
                *("--bootstrap-region-id", "RegionOne"),
            )
            self._processes.add_wsgi(
                "keystone",
                self.release.apis["keystone"],
                configuration.ports["keystone"],
                OS_KEYSTONE_CONFIG_DIR=str(etc / "keystone"),
                OS_KEYSTONE_CONFIG_FILES=str(etc / "keystone" / "keystone.conf"),
            )
            self._processes.wait("keystone")
            services = ["glance", "cinder", "placement", "nova", "neutron"]
            if self.octavia:
                services.append("octavia")
            seed.create_identity(self.connection(), configuration, services)

        def cells() -> None:
            manage = ("nova-manage", "--config-file", self.nova_conf, "cell_v2")
            self.tool(*manage, "map_cell0", "--database_connection", cell_database("nova_cell0"))
            for cell in CELLS:
                self.tool(
                    *(*manage, "create_cell", "--name", cell),
                    *("--transport-url", f"rabbit://{{username}}:{{password}}@{{hostname}}:{{port}}/{cell}"),
                    *("--database_connection", cell_database(f"nova_{cell}")),
                )

        seed.together(bootstrap, cells)

    def _create_account(self) -> None:
        self.account.create(self.admin, self.account_databases, self._vhosts)

    def _start_services(self) -> None:
        """All at once: they take their time to import, and wait for each other."""
        ports, etc, add = self._configuration.ports, self.folder / "etc", self._processes
        apis = self.release.apis
        nova_conductor = ("nova-conductor", "--config-file")
        for cell in CELLS:
            add.add(f"nova-conductor-{cell}", *nova_conductor, self.cell_conf(cell))
        add.add("nova-super-conductor", *nova_conductor, self.nova_conf)
        for host, cell in self._computes.items():
            self.add_compute(host, cell)
        add.add_wsgi(
            "placement",
            apis["placement"],
            ports["placement"],
            OS_PLACEMENT_CONFIG_DIR=str(etc / "placement"),
        )
        add.add("nova-scheduler", "nova-scheduler", "--config-file", self.nova_conf)
        add.add_wsgi(
            "nova-api",
            apis["nova"],
            ports["nova"],
            OS_NOVA_CONFIG_DIR=str(etc / "nova"),
            OS_NOVA_CONFIG_FILES="api-paste.ini;nova.conf",
        )
        add.add_wsgi(
            "neutron",
            apis["neutron"],
            ports["neutron"],
            OS_NEUTRON_CONFIG_DIR=str(etc / "neutron"),
            OS_NEUTRON_CONFIG_FILES="neutron.conf",
        )
        add.add_wsgi(
            "glance",
            apis["glance"],
            ports["glance"],
            OS_GLANCE_CONFIG_DIR=str(etc / "glance"),
        )
        add.add_wsgi(
            "cinder",
            apis["cinder"],
            ports["cinder"],
            f"--pyargv=--config-file={self.cinder_conf}",
        )
        if self.octavia:
            neutron_conf = etc / "neutron" / "neutron.conf"
            add.add("neutron-rpc", "neutron-rpc-server", "--config-file", neutron_conf)

    def _wait_for_apis(self) -> None:
        for name in self._processes.names:
            self._processes.wait(name)

    def _seed(self) -> None:
        connection = self.admin
        content = self.folder / "image"
        content.write_text("nothing\n")
        image = seed.create_image(connection, content)
        self.image_id = image.id
        seed.create_flavors(connection)
        if self.octavia:
            amphora = seed.create_amphora_network(connection, image)
            octavia_conf = self._configuration.write_octavia(amphora)
            self._processes.add_wsgi(
                "octavia-api",
                self.release.apis["octavia"],
                self._configuration.ports["octavia"],
                f"--pyargv=--config-file={octavia_conf}",
            )
            self._processes.add("octavia-worker", "octavia-worker", "--config-file", octavia_conf)
            self._processes.wait("octavia-api")

    def _map_hosts(self) -> None:
        for host in self._computes:
            self.wait_for_compute(host)
        self.discover_hosts()

    # Services

    @property
    def services(self) -> list[str]:
        """``keystone``, ``nova-api``, ``nova-conductor-cell1``, ``nova-compute-compute-1`` ..."""
        return self._processes.names

    def is_running(self, name: str) -> bool:
        return self._processes.alive(name)

    def start_service(self, name: str) -> None:
        """Start a service that was stopped; returns when its API, if any, answers."""
        self._processes.spawn(name)
        self._processes.wait(name)

    def stop_service(self, name: str) -> None:
        self._processes.stop(name)

    def kill_service(self, name: str) -> None:
        """SIGKILL, as when a node loses power."""
        self._processes.kill(name)

    def pause_service(self, name: str) -> None:
        """SIGSTOP: it takes connections and answers none. Only ``kill_service`` ends that."""
        self._processes.pause(name)

    def log(self, name: str) -> str:
        """What a service has logged so far."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def start_volumes(self) -> None:
        """Start Cinder's scheduler and its service of volumes; until then Cinder has its API only."""
        for name in ("cinder-scheduler", "cinder-volume"):
            self._processes.add(name, name, "--config-file", self.cinder_conf)

    def start_health_manager(self) -> None:
        """Start Octavia's health manager, a service like others afterwards; amphorae here send no heartbeats."""
        self._processes.add("octavia-health-manager", "octavia-health-manager", "--config-file", self.octavia_conf)

    def start_housekeeping(self, more: Path) -> None:
        """Start Octavia's housekeeping with the options of one more file, a service like others afterwards."""
        files = ("--config-file", self.octavia_conf, "--config-file", more)
        self._processes.add("octavia-housekeeping", "octavia-housekeeping", *files)

    @property
    def health_port(self) -> int:
        """Where it takes heartbeats, by UDP."""
        return self._configuration.ports["health"]

    def derive(self, service: str, name: str, options: Options) -> Path:
        """The configuration of placement or nova, but for ``options``, as a file in a folder called ``name``."""
        return self._configuration.derive(service, name, options)

    def add_api(self, service: str, name: str, options: Options) -> str:
        """Start another API of placement or nova, with ``options`` of its own; its address. It is not waited for."""
        folder, port = self.derive(service, name, options).parent, free_port()
        if service == "placement":
            environment = {"OS_PLACEMENT_CONFIG_DIR": str(folder)}
        else:
            environment = {"OS_NOVA_CONFIG_DIR": str(folder), "OS_NOVA_CONFIG_FILES": "api-paste.ini;nova.conf"}
        self._processes.add_wsgi(name, self.release.apis[service], port, **environment)
        return f"http://{HOST}:{port}"

    def remove_api(self, name: str) -> None:
        """End an API that was added."""
        self._processes.remove(name)

    def add_compute(
        self,
        host: str,
        cell: str = "cell1",
        *,
        nodes: Sequence[str] = (),
        options: Options | None = None,
    ) -> None:
        """Start another nova-compute; it is neither waited for nor mapped.

        ``nodes``: several hypervisors below one host, as Ironic has them.
        """
        path = self._configuration.write_compute(host, cell, list(nodes), options or {})
        self.mariadb.execute(_AGENT.format(host=host), "neutron")
        self._computes[host] = cell
        launcher = Path(__file__).parent / "virt" / "nova_compute.py"
        self._processes.add(f"nova-compute-{host}", "python", launcher, "--config-file", path)

    def wait_for_compute(self, host: str, nodes: Sequence[str] = (), timeout: float = 90) -> None:
        """Until a compute service is in its cell's database and its providers in Placement, with all that they have there.

        The traits come last. Placement answers them with 500 when somebody else changes the provider just then, as nova-api
        does for an aggregate; nova-compute tries again after a minute, and the scheduler finds no host until then.
        """
        for node in nodes or [host]:
            rows = (
                f"SELECT 1 FROM nova_{self._computes[host]}.compute_nodes c"
                " JOIN placement.resource_providers p ON p.uuid = c.uuid"
                " JOIN placement.inventories i ON i.resource_provider_id = p.id"
                " JOIN placement.resource_provider_traits r ON r.resource_provider_id = p.id"
                " JOIN placement.traits t ON t.id = r.trait_id AND t.name = 'COMPUTE_NODE'"
                f" WHERE c.deleted = 0 AND c.host = '{host}'"
                f" AND c.hypervisor_hostname = '{node}' LIMIT 1"
            )

            def provided(rows: str = rows) -> bool:
                self._must_run(host)
                return bool(self.mariadb.execute(rows))

            wait_until(provided, timeout, f"resource provider of {node}")

    def remove_compute(self, host: str) -> None:
        """Kill a compute service for good. What it left in databases stays: that is drift.

        For a minute Nova still takes it for up and may choose it for new servers.
        """
        self._processes.remove(f"nova-compute-{host}")
        del self._computes[host]

    def lose_host(self, host: str) -> None:
        """Kill a compute service and tell Nova that its host is dead: now servers can leave it."""
        self.kill_service(f"nova-compute-{host}")
        self._force_down(host, True)

    def return_host(self, host: str, timeout: float = 60) -> None:
        """Start it again, and tell Nova once it has forgotten the servers that left.

        Nova refuses to do without: two hosts might run the same server.
        """
        self.start_service(f"nova-compute-{host}")
        pending = (
            "SELECT COUNT(*) FROM migrations WHERE migration_type = 'evacuation'"
            f" AND status = 'done' AND deleted = 0 AND source_compute = '{host}'"
        )
        database = f"nova_{self._computes[host]}"

        def forgotten() -> bool:
            self._must_run(host)
            return self.mariadb.execute(pending, database) == "0\n"

        wait_until(forgotten, timeout, f"return of {host}")
        self._force_down(host, False)

        wait_until(lambda: self._is_up(host), timeout, f"return of {host}")

    def _is_up(self, host: str) -> bool:
        self._must_run(host)
        services = self.admin.compute.services(binary="nova-compute", host=host)
        return all(service.state == "up" for service in services)

    def _must_run(self, host: str) -> None:
        """Do not wait for what will never come."""
        name = f"nova-compute-{host}"
        if not self.is_running(name):
            raise RuntimeError(f"{name} ended at start:\n{self.log(name)[-3000:]}")

    def _force_down(self, host: str, forced: bool) -> None:
        for service in self.admin.compute.services(binary="nova-compute", host=host):
            self.admin.compute.update_service_forced_down(service, forced=forced)

    def discover_hosts(self) -> None:
        """Map all hosts that are not mapped yet, as an operator does after adding some."""
        done = self.nova_manage("cell_v2", "discover_hosts")
        if done.returncode:
            raise RuntimeError(f"discover_hosts failed: {done.stdout}{done.stderr}")

    # Tools

    def nova_manage(self, *arguments: str, conf: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run nova-manage, whatever it returns."""
        return self._run("nova-manage", "--config-file", conf or self.nova_conf, *arguments)

    def tool(self, *arguments: str | Path) -> str:
        """Run a program of the services' environment; its output. Raises when it fails."""
        done = self._run(*arguments)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def _run(self, program: str | Path, *rest: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._packages.bin / program), *map(str, rest)],
            env=self._processes.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    # Servers

    def boot(
        self,
        name: str,
        host: str | None = None,
        wait: bool = True,
        flavor: str = "tiny",
        **more: Any,
    ) -> Any:
        """Boot a server without network, on ``host`` or where the scheduler wants it.

        On a host that was away, it waits until Nova takes it for up again.
        """
        if host is not None:
            wait_until(lambda: self._is_up(host), 120, f"host {host}")
            more["host"] = host
        server = self.admin.compute.create_server(
            name=name,
            image_id=self.image_id,
            flavor_id=flavor,
            **{"networks": "none", **more},
        )
        return self.wait_for_server(server.id) if wait else server

    def wait_for_server(self, server_id: str, status: str = "ACTIVE", timeout: float = 60) -> Any:
        """Until a server has a status and no task; an error when it is in ERROR, as soon as Nova has written down why."""
        compute = self.admin.compute

        def reached() -> Any:
            server = compute.get_server(server_id)
            if server.status == "ERROR" != status and server.fault:
                raise AssertionError(f"server {server.name} is in ERROR: {server.fault}")
            return server if server.status == status and not server.task_state else None

        return wait_until(reached, timeout, f"server {server_id} in {status}")

    def delete(self, server_id: str, timeout: float = 60) -> None:
        """Delete a server and wait until it is gone."""
        compute = self.admin.compute
        compute.delete_server(server_id, ignore_missing=True)
        wait_until(
            lambda: not list(compute.servers(all_projects=True, uuid=server_id)),
            timeout,
            f"deletion of server {server_id}",
        )

    @staticmethod
    def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
        """See the function of the same name."""
        return wait_until(predicate, timeout, what)


def cell_database(name: str, address: str = "{hostname}:{port}") -> str:
    """How cells are written down: a template, which each program fills with the account of its own configuration.

    :param address: host and port, where these are not to be filled in
    """
    return f"mysql+pymysql://{{username}}:{{password}}@{address}/{name}"


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Poll until ``predicate`` returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.2)


# An agent row is all that Neutron needs to bind a port to a host.
_AGENT = """
DELETE FROM agents WHERE host = '{host}';
INSERT INTO agents (id, agent_type, `binary`, topic, host, admin_state_up, created_at, started_at,
    heartbeat_timestamp, configurations, `load`)
VALUES (uuid(), 'Open vSwitch agent', 'neutron-openvswitch-agent', 'N/A', '{host}', 1,
    utc_timestamp(), utc_timestamp(), utc_timestamp(),
    '{{"bridge_mappings": {{"physnet1": "br-ex"}}, "tunnel_types": [], "datapath_type": "system"}}',
    0);
"""
