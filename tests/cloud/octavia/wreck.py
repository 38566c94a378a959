"""What Octavia leaves behind, made for real, and what only looks like it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from consumer import plugins
from tests.cloud.control_plane import CELLS, ControlPlane
from tests.program import Program


class Wreck:
    """Makes leftovers as the user ``octavia`` in its project, and look-alikes elsewhere.

    Things get names of their kind; each method returns the new one's id.
    """

    def __init__(self, cloud: ControlPlane) -> None:
        self._cloud = cloud
        self._made: list[Callable[[], object]] = []

    def __enter__(self) -> Wreck:
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove whatever is still there of it."""
        while self._made:
            self._made.pop()()

    @cached_property
    def octavia(self) -> Any:
        """Octavia's own connection."""
        return self._cloud.connection(username="octavia", project_name="service")

    @cached_property
    def stranger(self) -> Any:
        """Somebody else's, in another project."""
        return self._cloud.connection()

    def server(self, amphora: str, owner: Any = None, networks: Any = "none", **more: Any) -> str:
        """A server named as an amphora's."""
        compute = (owner or self.octavia).compute
        image: Any = next(image for image in self._cloud.admin.image.images() if image.name == "tiny")
        made = compute.create_server(
            name=f"amphora-{amphora}", image_id=image.id, flavor_id="amphora", networks=networks, **more
        )
        self._made.append(lambda: self._cloud.delete(made.id))
        self._cloud.wait_for_server(made.id)
        return str(made.id)

    def port(self, name: str, owner: Any = None, **more: Any) -> str:
        """A port in the network of tenants."""
        network = (owner or self.octavia).network
        made = network.create_port(network_id=network.find_network("tenant").id, name=name, **more)
        self._made.append(lambda: network.delete_port(made.id))
        return str(made.id)

    def security_group(self, name: str, owner: Any = None) -> str:
        network = (owner or self.octavia).network
        made = network.create_security_group(name=name)
        self._made.append(lambda: network.delete_security_group(made.id))
        return str(made.id)

    def server_group(self, name: str, owner: Any = None) -> str:
        compute = (owner or self.octavia).compute
        made = compute.create_server_group(name=name, policy="anti-affinity")
        self._made.append(lambda: compute.delete_server_group(made.id))
        return str(made.id)

    def row(self, status: str, server: str | None = None, amphora: str | None = None) -> str:
        """An amphora's row on no load balancer."""
        amphora = amphora or str(uuid.uuid4())
        compute = f"'{server}'" if server else "NULL"
        self._cloud.mariadb.execute(
            "INSERT INTO amphora (id, compute_id, status, cert_expiration, cert_busy, created_at, updated_at)"
            f" VALUES ('{amphora}', {compute}, '{status}', utc_timestamp() + INTERVAL 30 DAY, 0, utc_timestamp(),"
            " utc_timestamp())",
            "octavia",
        )
        self._made.append(lambda: self._delete("amphora", "id", amphora))
        return amphora

    def balancer(self, provider: str, status: str) -> str:
        """A load balancer's row, without anything else."""
        balancer = str(uuid.uuid4())
        self._cloud.mariadb.execute(
            "INSERT INTO load_balancer (id, project_id, provider, provisioning_status, operating_status, enabled,"
            f" created_at, updated_at) VALUES ('{balancer}', 'somebody', '{provider}', '{status}', 'OFFLINE', 1,"
            " utc_timestamp(), utc_timestamp())",
            "octavia",
        )
        self._made.append(lambda: self._delete("load_balancer", "id", balancer))
        return balancer

    def health(self, amphora: str) -> None:
        """A heartbeat record."""
        self._cloud.mariadb.execute(
            f"INSERT INTO amphora_health (amphora_id, last_update, busy) VALUES ('{amphora}', utc_timestamp(), 0)",
            "octavia",
        )
        self._made.append(lambda: self._delete("amphora_health", "amphora_id", amphora))

    def _delete(self, table: str, column: str, identity: str) -> None:
        self._cloud.mariadb.execute(f"DELETE FROM {table} WHERE {column} = '{identity}'", "octavia")


def age(cloud: ControlPlane, program: Program) -> None:
    """Make every row and object older than the longest silence of a flow, and let a program accept the changed database."""
    back = "INTERVAL 9 HOUR"
    for cell in ("cell0", *CELLS):
        cloud.mariadb.execute(f"UPDATE instances SET created_at = created_at - {back}", f"nova_{cell}")
    cloud.mariadb.execute(f"UPDATE standardattributes SET created_at = created_at - {back}", "neutron")
    for table in ("amphora", "load_balancer"):
        cloud.mariadb.execute(
            f"UPDATE {table} SET created_at = created_at - {back}, updated_at = updated_at - {back}", "octavia"
        )
    cloud.mariadb.execute(f"UPDATE amphora_health SET last_update = last_update - {back}", "octavia")
    if (program.folder / "journal.sqlite").exists():
        accept(program)


def accept(program: Program) -> None:
    """Accept load balancers with other creation times, which look like a restored database.

    The first command compares and refuses, the second one accepts.
    """
    names = [handler.name for handler in plugins.handlers() if handler.service == "octavia"]
    program.run("handler", "resume", *names)
    resumed = program.run("handler", "resume", *names)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


@contextmanager
def builds_held(cloud: ControlPlane) -> Iterator[None]:
    """No server is built meanwhile; Nova takes the requests, and carries them out afterwards."""
    cloud.kill_service("nova-super-conductor")
    try:
        yield
    finally:
        cloud.start_service("nova-super-conductor")
