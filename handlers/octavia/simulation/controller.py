"""Octavia's API and controller in miniature, on a database with Octavia's tables.

As in Octavia (``octavia/controller/worker/v2/flows/amphora_flows.py``), a flow uses the row that it read at the beginning. It
builds the new amphora before it deletes the old server. The old row becomes DELETED, and still names load balancer and port.
When a failover finds no host, amphora and load balancer become ERROR, and the old server remains.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.octavia import children, queries, records, revisions, tables
from handlers.octavia.children import Kind
from handlers.octavia.cloud_objects import AMPHORA_PREFIX
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.housekeeping import NotFoundError, UnavailableException
from handlers.octavia.simulation.cloud import MANAGEMENT, MEMBERS, OWNER, VIPS, Cloud

_LB = tables.load_balancer
_AMPHORA = tables.amphora
_HEALTH = tables.amphora_health
_MEMBERS = tables.amphora_member_port
#: the table of each kind of child
CHILDREN = {
    Kind.LISTENER: tables.listener,
    Kind.POOL: tables.pool,
    Kind.MEMBER: tables.member,
    Kind.HEALTH_MONITOR: tables.health_monitor,
    Kind.L7POLICY: tables.l7policy,
    Kind.L7RULE: tables.l7rule,
}

#: the schema that an empty database gets
REVISION = max(revisions.KNOWN)


#: the end of every amphora's certificate
CERTIFICATE_END = datetime(2100, 1, 1)


def vip_address(balancer: str) -> str:
    return f"198.18.{int(balancer[0:2], 16)}.{int(balancer[2:4], 16)}"


class NoValidHost(Exception):
    """No host has room, or the quota is used up."""


@dataclass
class Pace:
    """The speed of the simulated flows.

    :param held: whether flows wait for :meth:`Controller.finish`
    :param seconds: time that a flow takes; 0: the call returns when the flow has ended
    """

    held: bool = False
    seconds: float = 0.0


@dataclass
class Controller:
    database: OctaviaDatabase
    cloud: Cloud
    pace: Pace = field(default_factory=Pace)
    _waiting: list[Callable[[], None]] = field(default_factory=list)

    def prepare(self) -> None:
        """Create missing tables. Boot the missing servers that amphora rows name, except DELETED rows."""

        def make(connection: Connection) -> None:
            tables.octavia.create_all(connection)
            if not queries.revisions(connection):
                connection.execute(sa.insert(tables.alembic_version).values(version_num=REVISION))

        self.database.run(make)
        for amphora in self.database.run(queries.amphorae):
            if amphora.compute_id and self.cloud.server(amphora.compute_id) is None:
                self._restore(amphora)

    def _restore(self, amphora: records.Amphora) -> None:
        balancer = amphora.load_balancer_id and self.database.run(
            partial(queries.load_balancer, identity=amphora.load_balancer_id)
        )
        group = balancer.server_group_id if balancer else None
        if group:
            self.cloud.add_server_group(f"octavia-lb-{amphora.load_balancer_id}", group)
        server = self.cloud.boot(f"{AMPHORA_PREFIX}{amphora.id}", identity=amphora.compute_id or "", group=group)
        self.cloud.plug(server.id, MANAGEMENT)
        if amphora.vrrp_port_id:
            self.cloud.plug(server.id, VIPS, f"octavia-lb-vrrp-{amphora.id}", identity=amphora.vrrp_port_id)
        for port in self.database.run(partial(queries.member_ports, amphora=amphora.id)):
            self.cloud.plug(server.id, MEMBERS, f"octavia-lb-member-{amphora.id}", identity=port)

    # a world

    def add_load_balancer(
        self, topology: str = "SINGLE", *, anti_affinity: bool = False, members: int = 1, volume_backed: bool = False
    ) -> str:
        """Create an ACTIVE load balancer with amphorae; return its id.

        :param members: member ports of each amphora
        """
        balancer, vip = str(uuid4()), str(uuid4())
        group = self.cloud.add_server_group(f"octavia-lb-{balancer}").id if anti_affinity else None
        self.cloud.add_security_group(f"lb-{balancer}")

        def add(connection: Connection) -> None:
            connection.execute(
                sa.insert(_LB).values(
                    id=balancer,
                    project_id=OWNER,
                    name=f"lb-{balancer[:8]}",
                    provisioning_status="PENDING_CREATE",
                    operating_status="OFFLINE",
                    topology=topology,
                    server_group_id=group,
                    provider="amphora",
                    enabled=True,
                    created_at=utcnow(),
                )
            )
            connection.execute(sa.insert(tables.vip).values(load_balancer_id=balancer, port_id=vip, octavia_owned=True))

        self.database.run(add)
        self.cloud.plug(
            f"lb-{balancer}", VIPS, f"octavia-lb-{balancer}", identity=vip, addresses=(vip_address(balancer),)
        )
        for number in range(records.AMPHORAE_OF[topology]):
            role = "STANDALONE" if topology == "SINGLE" else ("MASTER", "BACKUP")[number]
            self._build(balancer, role, group, members, volume_backed)
        self.set_balancer(balancer, "ACTIVE")
        return balancer

    def add_children(self, balancer: str) -> dict[Kind, str]:
        """Create one ACTIVE object of each kind for a load balancer; return the objects' ids by kind."""
        identities = {kind: str(uuid4()) for kind in Kind}
        listener, pool, policy = (identities[kind] for kind in (Kind.LISTENER, Kind.POOL, Kind.L7POLICY))
        parents = {
            tables.listener: {"load_balancer_id": balancer},
            tables.pool: {"load_balancer_id": balancer},
            tables.member: {"pool_id": pool},
            tables.health_monitor: {"pool_id": pool},
            tables.l7policy: {"listener_id": listener},
            tables.l7rule: {"l7policy_id": policy},
        }

        def add(connection: Connection) -> None:
            for identity, (table, parent) in zip(identities.values(), parents.items(), strict=True):
                values = {"id": identity, "provisioning_status": "ACTIVE", "created_at": utcnow(), **parent}
                connection.execute(sa.insert(table).values(values))

        self.database.run(add)
        return identities

    def set_child(self, kind: Kind, identity: str, status: str) -> None:
        table = CHILDREN[kind]
        change = sa.update(table).where(table.c.id == identity).values(updated_at=utcnow(), provisioning_status=status)
        self.database.run(lambda connection: connection.execute(change))

    def heartbeat(self, amphora: str, silent: float = 0.0) -> None:
        """Write an amphora's heartbeat, as Octavia's health manager does.

        :param silent: age of the heartbeat in seconds
        """

        def write(connection: Connection) -> None:
            now = connection.execute(sa.select(utcnow())).scalar_one()
            at = now - timedelta(seconds=silent)
            updated = connection.execute(
                sa.update(_HEALTH).where(_HEALTH.c.amphora_id == amphora).values(last_update=at)
            )
            if not updated.rowcount:
                connection.execute(sa.insert(_HEALTH).values(amphora_id=amphora, last_update=at, busy=False))

        self.database.run(write)

    def set_busy(self, amphora: str) -> None:
        change = sa.update(_HEALTH).where(_HEALTH.c.amphora_id == amphora).values(busy=True)
        self.database.run(lambda connection: connection.execute(change))

    def set_amphora(self, amphora: str, **values: object) -> None:
        change = sa.update(_AMPHORA).where(_AMPHORA.c.id == amphora).values(updated_at=utcnow(), **values)
        self.database.run(lambda connection: connection.execute(change))

    def set_balancer(self, balancer: str, status: str) -> None:
        change = sa.update(_LB).where(_LB.c.id == balancer).values(updated_at=utcnow(), provisioning_status=status)
        self.database.run(lambda connection: connection.execute(change))

    def rotate_certificates(self, buffer: timedelta = timedelta(days=14)) -> list[str]:
        """Rotate certificates as octavia-housekeeping does; return the ids of their amphorae.

        Source: ``get_cert_expiring_amphora`` in ``octavia/db/repositories.py``.
        """
        c = _AMPHORA.c

        def rotate(connection: Connection) -> list[str]:
            now = connection.execute(sa.select(utcnow())).scalar_one()
            due = (
                c.status.not_in(("DELETED", "PENDING_DELETE")),
                c.cert_busy.is_(False),
                c.cert_expiration < now + buffer,
            )
            found = list(connection.execute(sa.select(c.id).where(*due)).scalars())
            renewed = {"cert_expiration": now + timedelta(days=30), "updated_at": now}
            connection.execute(sa.update(_AMPHORA).where(c.id.in_(found)).values(**renewed))
            return found

        return self.database.run(rotate)

    # the API

    def require_amphora(self, identity: str) -> None:
        amphora = self.database.run(partial(queries.amphora, identity=identity))
        if amphora is None or amphora.status == "DELETED":
            raise NotFoundError(f"there is no amphora {identity}")

    def failover_amphora(self, identity: str) -> None:
        """Simulate ``PUT /octavia/amphorae/ID/failover``."""
        amphora = self.database.run(partial(queries.amphora, identity=identity))
        if amphora is None or amphora.status == "DELETED":
            raise NotFoundError(f"there is no amphora {identity}")
        if amphora.load_balancer_id is None:
            raise UnavailableException("load-balancer", "500: an amphora without a load balancer")
        self._take(amphora.load_balancer_id, {"ACTIVE"})
        self._begin(partial(self._failover, amphora.load_balancer_id, [amphora.id]))

    def failover_load_balancer(self, identity: str) -> None:
        """Simulate ``PUT /lbaas/loadbalancers/ID/failover``."""
        if self.database.run(partial(queries.load_balancer, identity=identity)) is None:
            raise NotFoundError(f"there is no load balancer {identity}")
        self._take(identity, {"ACTIVE", "ERROR"})
        self._begin(partial(self._failover, identity, None))

    def delete_amphora(self, identity: str) -> None:
        """Simulate ``DELETE /octavia/amphorae/ID``."""

        def mark(connection: Connection) -> records.Amphora | None:
            amphora = queries.amphora(connection, identity)
            if amphora is None or amphora.status == "DELETED":
                return None
            if amphora.status != "ERROR":
                raise UnavailableException(f"amphora:{identity}", f"409: it is {amphora.status} and immutable")
            values = {"status": "PENDING_DELETE", "updated_at": utcnow()}
            connection.execute(sa.update(_AMPHORA).where(_AMPHORA.c.id == identity).values(values))
            return amphora

        amphora = self.database.run(mark)
        if amphora is not None:
            self._begin(partial(self._delete, amphora))

    def delete_load_balancer(self, identity: str) -> None:
        """Simulate ``DELETE /lbaas/loadbalancers/ID?cascade=true``."""
        self._take(identity, {"ACTIVE", "ERROR"}, "PENDING_DELETE")
        for amphora in self.database.run(partial(queries.amphorae_of, load_balancer=identity)):
            self._delete(amphora)
        for group in self.cloud.server_groups():
            if group.name == f"octavia-lb-{identity}":
                self.cloud.delete_server_group(group.id)
        for port in self.cloud.ports():
            if port.device_id == f"lb-{identity}":
                self.cloud.remove_port(port.id)
        for security_group in self.cloud.security_groups():
            if security_group.name == f"lb-{identity}":
                self.cloud.delete_security_group(security_group.id)
        self.set_balancer(identity, "DELETED")

    def finish(self) -> None:
        waiting, self._waiting[:] = list(self._waiting), []
        for flow in waiting:
            flow()

    def forget(self) -> None:
        """Drop the waiting flows, as if their worker had died."""
        self._waiting.clear()

    def _take(self, balancer: str, accepted: set[str], status: str = "PENDING_UPDATE") -> None:
        change = (
            sa.update(_LB)
            .where(_LB.c.id == balancer, _LB.c.provisioning_status.in_(accepted))
            .values(provisioning_status=status, updated_at=utcnow())
        )
        if self.database.run(lambda connection: connection.execute(change).rowcount) != 1:
            raise UnavailableException(f"load_balancer:{balancer}", "409: it is immutable")

    def _begin(self, flow: Callable[[], None]) -> None:
        if self.pace.held:
            self._waiting.append(flow)
        elif self.pace.seconds:
            timer = threading.Timer(self.pace.seconds, flow)
            timer.daemon = True
            timer.start()
        else:
            flow()

    # the flows

    def _failover(self, balancer: str, only: list[str] | None) -> None:
        row = self.database.run(partial(queries.load_balancer, identity=balancer))
        if row is None:
            return
        rows = self.database.run(partial(queries.amphorae_of, load_balancer=balancer))
        failing = [a for a in rows if a.status != "DELETED" and (only is None or a.id in only)]
        wanted = len(failing) if only else records.AMPHORAE_OF.get(row.topology or "", 1)
        for number in range(max(wanted, len(failing))):
            failed = failing[number] if number < len(failing) else None
            if failed is not None:
                self._mark_busy(failed)
            if number < wanted:
                members = len(self._member_ports(failed)) if failed else 1
                try:
                    self._build(balancer, failed.role if failed else "STANDALONE", row.server_group_id, members)
                except NoValidHost:
                    if failed is not None:
                        self.set_amphora(failed.id, status="ERROR")
                    self._finish_children(balancer, "ERROR")
                    self.set_balancer(balancer, "ERROR")
                    return
            if failed is not None:
                self._delete(failed)
        self._finish_children(balancer, "ACTIVE")
        self.set_balancer(balancer, "ACTIVE")

    def _finish_children(self, balancer: str, status: str) -> None:
        for child in self.database.run(partial(children.pending_of, load_balancer=balancer)):
            self.set_child(child.kind, child.id, status)

    def _mark_busy(self, amphora: records.Amphora) -> None:
        self.set_amphora(amphora.id, status="PENDING_DELETE")
        self.set_busy(amphora.id)

    def _build(
        self, balancer: str, role: str | None, group: str | None, members: int, volume_backed: bool = False
    ) -> str:
        if self.cloud.headroom() == 0:
            raise NoValidHost(balancer)
        identity = str(uuid4())
        image = None if volume_backed else "amphora-image"
        server = self.cloud.boot(f"{AMPHORA_PREFIX}{identity}", group=group, image=image)
        if server.host is None:
            self.cloud.delete_server(server.id)
            raise NoValidHost(balancer)
        self.cloud.plug(server.id, MANAGEMENT)
        vrrp = self.cloud.plug(server.id, VIPS, f"octavia-lb-vrrp-{identity}", (vip_address(balancer),))
        ports = [self.cloud.plug(server.id, MEMBERS, f"octavia-lb-member-{identity}").id for _ in range(members)]

        def add(connection: Connection) -> None:
            connection.execute(
                sa.insert(_AMPHORA).values(
                    id=identity,
                    compute_id=server.id,
                    status="ALLOCATED",
                    load_balancer_id=balancer,
                    vrrp_port_id=vrrp.id,
                    cert_expiration=CERTIFICATE_END,
                    role=role,
                    cached_zone=server.zone,
                    created_at=utcnow(),
                )
            )
            for port in ports:
                connection.execute(sa.insert(_MEMBERS).values(port_id=port, amphora_id=identity, network_id=MEMBERS))

        self.database.run(add)
        return identity

    def _member_ports(self, amphora: records.Amphora) -> list[str]:
        return self.database.run(partial(queries.member_ports, amphora=amphora.id))

    def _delete(self, amphora: records.Amphora) -> None:
        if amphora.compute_id:
            self.cloud.delete_server(amphora.compute_id)
        for port in self._member_ports(amphora):
            self.cloud.remove_port(port)

        def forget(connection: Connection) -> None:
            connection.execute(sa.delete(_MEMBERS).where(_MEMBERS.c.amphora_id == amphora.id))
            connection.execute(sa.delete(_HEALTH).where(_HEALTH.c.amphora_id == amphora.id))

        self.database.run(forget)
        self.set_amphora(amphora.id, status="DELETED")
        if amphora.vrrp_port_id:
            self.cloud.remove_port(amphora.vrrp_port_id)
