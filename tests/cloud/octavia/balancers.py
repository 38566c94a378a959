"""Load balancers of a real Octavia: made, filled, looked at, broken and deleted."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from types import TracebackType
from typing import Any

from openstack import exceptions

from tests.cloud.control_plane import ControlPlane, wait_until

#: generous: two cores may be shared with much else
PATIENCE = 600


@dataclass(frozen=True)
class Amphora:
    """A row of Octavia's table; ``-`` for NULL."""

    id: str
    status: str
    server: str
    role: str
    vrrp_port: str
    load_balancer: str


class Balancers:
    """The load balancers of one test."""

    def __init__(self, cloud: ControlPlane) -> None:
        self.cloud = cloud
        self._made: list[str] = []

    @property
    def api(self) -> Any:
        """Octavia's API."""
        return self.cloud.admin.load_balancer

    # made and deleted

    def create(self, topology: str = "SINGLE", *, wait: bool = True) -> str:
        """Create a load balancer in the network of tenants; its id."""
        more = {} if topology == "SINGLE" else {"flavor_id": self._pair}
        made = self.api.create_load_balancer(name=f"lb-{uuid.uuid4().hex[:6]}", vip_subnet_id=self._subnet, **more)
        self._made.append(made.id)
        if wait:
            self.wait_active(made.id)
        return str(made.id)

    def fill(self, balancer: str, address: str = "10.0.8.1") -> None:
        """Give it a listener, a pool, and a member in another network, where its amphorae get a port each."""
        members = self._member_subnet
        listener = self.api.create_listener(load_balancer_id=balancer, protocol="TCP", protocol_port=80)
        self.wait_active(balancer)
        pool = self.api.create_pool(listener_id=listener.id, protocol="TCP", lb_algorithm="ROUND_ROBIN")
        self.wait_active(balancer)
        self.api.create_member(pool.id, address=address, protocol_port=80, subnet_id=members)
        self.wait_active(balancer)

    def touch(self, *balancers: str) -> None:
        """Update each, as any user may: the flow looks at all its amphorae, and at all their ports."""
        for balancer in balancers:
            self.api.update_load_balancer(balancer, description=uuid.uuid4().hex)
        for balancer in balancers:
            self.wait_active(balancer)

    def delete(self, *balancers: str) -> None:
        """Delete each with all it has, from whatever state, and wait until it is gone."""
        for balancer in balancers:
            self._made.remove(balancer)
        self._delete(balancers)

    def _delete(self, balancers: Sequence[str]) -> None:
        for balancer in balancers:
            idle = partial(self._is_in, balancer, "ACTIVE", "ERROR", "DELETED")
            wait_until(idle, PATIENCE, f"an end of what is done to {balancer}")
            with suppress(exceptions.NotFoundException):
                self.api.delete_load_balancer(balancer, cascade=True)
        for balancer in balancers:
            wait_until(partial(self._is_in, balancer, "DELETED"), PATIENCE, f"the deletion of {balancer}")

    def _is_in(self, balancer: str, *statuses: str) -> bool:
        return self.status(balancer) in statuses

    def __enter__(self) -> Balancers:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        try:
            self._delete(self._made)
        except Exception:
            if error is None:
                raise

    # looked at

    def status(self, balancer: str) -> str:
        """Its provisioning status."""
        return self._value(f"SELECT provisioning_status FROM load_balancer WHERE id = '{balancer}'")

    def wait_active(self, balancer: str) -> None:
        """Until it is ACTIVE; at once an error when it is in ERROR."""

        def active() -> bool:
            status = self.status(balancer)
            if status == "ERROR":
                raise AssertionError(f"load balancer {balancer} is in ERROR")
            return status == "ACTIVE"

        wait_until(active, PATIENCE, f"load balancer {balancer} ACTIVE")

    def wait_made(self, balancer: str) -> str:
        """Until its making has ended, and how: ``ACTIVE`` or ``ERROR``."""
        wait_until(partial(self._is_in, balancer, "ACTIVE", "ERROR"), PATIENCE, f"load balancer {balancer}")
        return self.status(balancer)

    def amphorae(self, balancer: str) -> list[Amphora]:
        """Its amphorae, deleted ones too."""
        return self._amphorae(f"load_balancer_id = '{balancer}'")

    def amphora(self, amphora: str) -> Amphora:
        """One amphora."""
        (found,) = self._amphorae(f"id = '{amphora}'")
        return found

    def serving(self, balancer: str) -> list[Amphora]:
        """Its amphorae that are ALLOCATED, the MASTER first."""
        found = [amphora for amphora in self.amphorae(balancer) if amphora.status == "ALLOCATED"]
        return sorted(found, key=lambda amphora: amphora.role != "MASTER")

    def _amphorae(self, where: str) -> list[Amphora]:
        columns = ("id", "status", "compute_id", "role", "vrrp_port_id", "load_balancer_id")
        names = ", ".join(f"IFNULL({name}, '-')" for name in columns)
        rows = self.cloud.mariadb.execute(f"SELECT {names} FROM amphora WHERE {where} ORDER BY created_at", "octavia")
        return [Amphora(*line.split("\t")) for line in rows.splitlines()]

    def _value(self, query: str) -> str:
        return self.cloud.mariadb.execute(query, "octavia").strip()

    def replaced(self, balancer: str, gone: Sequence[str]) -> bool:
        """Whether it is ACTIVE, with as many amphorae as it should have and none of these."""
        wanted = 2 if self._value(f"SELECT topology FROM load_balancer WHERE id = '{balancer}'") != "SINGLE" else 1
        serving = {amphora.id for amphora in self.serving(balancer)}
        return self.status(balancer) == "ACTIVE" and len(serving) == wanted and not serving & set(gone)

    def wait_replaced(self, balancer: str, *gone: str) -> None:
        """Until :meth:`replaced`."""
        wait_until(
            lambda: self.replaced(balancer, gone), PATIENCE, f"load balancer {balancer} without {', '.join(gone)}"
        )

    # broken

    def break_failover(self, balancer: str) -> None:
        """Put it in ERROR, as a failover does that finds no image; its amphora is in ERROR then, and still serves."""
        image: Any = self.cloud.admin.image
        (booted,) = [found for found in image.images() if "amphora" in found.tags]
        image.remove_tag(booted, "amphora")
        try:
            self.api.failover_load_balancer(balancer)
            wait_until(lambda: self.status(balancer) == "ERROR", PATIENCE, f"load balancer {balancer} in ERROR")
        finally:
            image.add_tag(booted, "amphora")

    # what they are made of

    @cached_property
    def _subnet(self) -> str:
        network: Any = self.cloud.admin.network
        return str(network.find_subnet("tenant").id)

    @cached_property
    def _member_subnet(self) -> str:
        network: Any = self.cloud.admin.network
        found = network.find_subnet("members")
        if found is None:
            made = network.create_network(name="members", shared=True)
            found = network.create_subnet(network_id=made.id, cidr="10.8.0.0/20", ip_version=4, name="members")
        return str(found.id)

    @cached_property
    def _pair(self) -> str:
        """The flavor of a load balancer with two amphorae."""
        found = self.api.find_flavor("pair")
        if found is None:
            profile = self.api.create_flavor_profile(
                name="pair", provider_name="amphora", flavor_data='{"loadbalancer_topology": "ACTIVE_STANDBY"}'
            )
            found = self.api.create_flavor(name="pair", flavor_profile_id=profile.id, enabled=True)
        return str(found.id)
