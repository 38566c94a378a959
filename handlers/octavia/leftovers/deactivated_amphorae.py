"""Removes what Octavia left behind: amphorae that serve nothing, and what belonged to them.

**What drifts.**

=========================  ==========================================================================================
amphora-deactivated        a row on no load balancer, in ERROR, READY or another state, with its server
amphora-without-server     the same, and Nova does not know its server
amphora-stuck              a row in a state of a flow, while no flow works on its load balancer; or PENDING_DELETE on none
server-without-row         a server named ``amphora-<uuid>`` of which Octavia's database knows nothing
zombie-server              a server whose amphora is DELETED; it may still answer for an address that another one has
leaked-port                a VRRP or member port of an amphora that is DELETED or unknown
leaked-vip-port            the port of the VIP of a load balancer that is gone
leaked-security-group      ``lb-<uuid>`` of a load balancer that is gone
leaked-server-group        ``octavia-lb-<uuid>`` of a load balancer that is gone, without members
orphan-health              a heartbeat record of an amphora that is DELETED or unknown; it counts for failover_threshold
=========================  ==========================================================================================

**Why Octavia lets it.** Its flows give up on what does not go: a server or port that could not be deleted in fifteen tries
is logged and forgotten, a worker that dies takes its flow with it, and when Nova is down while a failed creation is
reverted, the row goes and the server stays. Nobody looks again. And the API for deleting an amphora lies: before release
18 the row becomes PENDING_DELETE and the message reaches nobody; in 19 a failure inside it leaves the row so for ever.

**What is read.** Octavia's rows; servers, ports, security groups and server groups by name and project. What proves each
of them left over, and which look-alikes are left alone, is in :mod:`handlers.octavia.leftovers.rules`; the object and its rows
must have been untouched for ``deactivated_amphorae_after``, and it must be found twice. Where Octavia's database has no
amphora row at all, nothing is: that is more likely the wrong database. A row that is PENDING_DELETE may be so because the
API was asked to delete it and no worker was there to take the request: so Octavia's queue must be empty while a worker
consumes it (:mod:`handlers.octavia.work_queue`); with a jobboard, or without a way to ask the queue, it is only reported.

**What is changed.** An amphora that is stuck on a load balancer is failed over: by itself when it is PENDING_DELETE and
the load balancer ACTIVE, else with the load balancer as a whole; never deleted, for Octavia's API would delete it without a
replacement. One in ERROR on none is deleted by the API and watched; when its row does not get DELETED, and in every other
state, its server, its ports and last its row are removed here (:mod:`handlers.octavia.leftovers.removal`). Servers, ports and groups
are deleted, and looked for afterwards. Ports are deleted at the revision that was judged.

**What is not changed.** Anything outside Octavia's project: a VIP's port belongs to the load balancer's owner, and is
reported. What is preserved, spare or was released. An amphora that serves, or is in ERROR on a load balancer: that is
``failed_amphora``'s. A wrong number of amphorae: that is ``stuck_load_balancers``'s.

**Undo.** What is deleted in Nova and Neutron does not return, and nothing referred to it. For a row, the statement is in
the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from oslo_config import cfg

from handlers.access.roles import AMPHORAE
from handlers.base import (
    Conflict,
    Finding,
    Handler,
    Healed,
    InFlight,
    Key,
    Mode,
    Privilege,
    Refused,
    Resources,
    Roles,
    Unavailable,
)
from handlers.octavia import changes, names, queries, records, removal, settings
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import Group, Port, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError
from handlers.octavia.leftovers import queries as leftover_queries
from handlers.octavia.leftovers import rules
from handlers.octavia.leftovers.rules import Leftover
from handlers.octavia.spares import pool
from handlers.octavia.work_queue import WorkQueue

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "deactivated_amphorae_after",
        default=3600,
        min=60,
        help="Seconds for which something that looks left behind must have been untouched before it is removed. Longer than "
        "any flow of Octavia: the boot of an amphora may take 300, its agent 600, and giving up on a deletion 230.",
    )
]

_GONE = "it does not return, and nothing referred to it; Octavia makes what it needs anew"


class DeactivatedAmphorae(OctaviaPlugin, Handler):
    """See the module.

    :param grace: seconds for which something must have been untouched
    """

    name = "deactivated_amphorae"
    title = "Remove amphorae that serve nothing, and the servers, ports and groups that Octavia left behind"
    group = settings.GROUP
    kinds = ("amphora", "server", "port", "security-group", "server-group")
    healable_problems = frozenset(
        {
            "amphora-deactivated",
            "amphora-without-server",
            "amphora-stuck",
            "server-without-row",
            "zombie-server",
            "leaked-port",
            "leaked-vip-port",
            "leaked-security-group",
            "leaked-server-group",
            "orphan-health",
        }
    )
    default_mode = Mode.AUDIT
    interval_option = "housekeeping_interval"
    confirm_after = 20.0
    requires = ("octavia_database", "compute", "network")
    rights = {
        "octavia": {
            "amphora": frozenset({Privilege.UPDATE}),
            "amphora_health": frozenset({Privilege.UPDATE, Privilege.DELETE}),
            "amphora_member_port": frozenset({Privilege.DELETE}),
        }
    }
    roles = Roles((AMPHORAE,))

    def __init__(self, driver: Driver, queue: WorkQueue, grace: float) -> None:
        self._driver = driver
        self._queue = queue
        self._database = driver.database
        self._grace = grace

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Its grace, and what the driver needs."""
        shared = super().options()
        return {**shared, settings.GROUP: [*shared[settings.GROUP], *OPTIONS]}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared driver.

        :raises ConfigError: when Octavia's transport URL cannot be understood
        """
        grace = resources.conf[settings.GROUP].deactivated_amphorae_after
        return cls(resources.get(chosen_driver), resources.get(WorkQueue.from_resources), grace)

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge one object; see the module."""
        judge: Mapping[str, Callable[[str], Iterable[tuple[Leftover, dict[str, Any]]]]] = {
            "amphora": self._amphora,
            "server": self._server,
            "port": self._port,
            "security-group": self._security_group,
            "server-group": self._server_group,
        }
        return [
            Finding(key, found.problem, found.summary, evidence, not found.refusal, found.refusal)
            for found, evidence in judge[key.kind](key.id)
        ]

    def _amphora(self, identity: str) -> Iterable[tuple[Leftover, dict[str, Any]]]:
        row, beat = self._database.run(
            lambda connection: (queries.amphora(connection, identity), queries.health(connection, identity))
        )
        found = rules.health(identity, row, beat, self._grace)
        if found:
            self._believe()
            yield found, {"amphora": identity}
        if row is None:
            return
        if names.in_flow(row, self._grace):
            raise InFlight(f"amphora {identity} is {row.status}, and Octavia may be at work on it", 60.0)
        server = self._driver.server(row.compute_id) if row.compute_id else None
        balancer = self._balancer(row.load_balancer_id)
        found = rules.row(row, balancer, server, self._driver.project(), self._grace)
        if found:
            yield self._unless_queued(found, row), _of_row(row)

    def _unless_queued(self, found: Leftover, row: records.Amphora) -> Leftover:
        """Make sure that no worker will yet take the request for which a row is PENDING_DELETE; else it is only reported.

        The other states of a flow are set by workers alone.
        """
        if row.status != "PENDING_DELETE" or found.refusal:
            return found
        if not self._queue.refusal:
            self._queue.prove_idle()
        return replace(found, refusal=self._queue.refusal)

    def _server(self, identity: str) -> Iterable[tuple[Leftover, dict[str, Any]]]:
        server = self._driver.server(identity)
        amphora = names.amphora_of_server(server.name) if server else None
        if server is None or amphora is None:
            return
        rows = self._rows(amphora, identity)
        found = rules.server(server, self._driver.project(), rows, self._is_working(rows), self._grace)
        if found:
            self._believe()
            yield found, _of_server(server)

    def _port(self, identity: str) -> Iterable[tuple[Leftover, dict[str, Any]]]:
        port = self._driver.port(identity)
        if port is None:
            return
        used = identity in self._database.run(leftover_queries.used_ports)
        project, amphora = self._driver.project(), names.amphora_of_port(port.name)
        if amphora is not None:
            row = self._database.run(partial(queries.amphora, identity=amphora))
            attached = bool(port.device_id) and self._driver.server(port.device_id) is not None
            working = row is not None and self._is_working((row,))
            found = rules.amphora_port(port, project, row, working, attached, used, self._grace)
        else:
            balancer = self._balancer(names.balancer_of_port(port.name))
            found = rules.balancer_port(port, project, balancer, used, self._grace)
        if found:
            self._believe()
            yield found, _of_port(port)

    def _security_group(self, identity: str) -> Iterable[tuple[Leftover, dict[str, Any]]]:
        group = _by_id(self._driver.security_groups(), identity)
        if group is None:
            return
        balancer = self._balancer(names.balancer_of_security_group(group.name))
        used = any(identity in port.security_groups for port in self._driver.ports())
        found = rules.security_group(group, self._driver.project(), balancer, used, self._grace)
        if found:
            self._believe()
            yield found, {"name": group.name}

    def _server_group(self, identity: str) -> Iterable[tuple[Leftover, dict[str, Any]]]:
        group = _by_id(self._driver.server_groups(), identity)
        if group is None:
            return
        balancer = self._balancer(names.balancer_of_server_group(group.name))
        used = identity in self._database.run(leftover_queries.used_groups)
        found = rules.server_group(group, self._driver.project(), balancer, used, self._grace)
        if found:
            self._believe()
            yield found, {"name": group.name}

    def sweep(self) -> Iterator[Key]:
        """Yield what looks left over, by sets: names, projects and rows; ages and single objects are for ``inspect``."""
        rows, deleted, beats, used, used_groups = self._database.run(
            lambda connection: (
                {row.id: row for row in queries.amphorae(connection)},
                {row.id: row for row in queries.deleted_amphorae(connection)},
                queries.healths(connection),
                leftover_queries.used_ports(connection),
                leftover_queries.used_groups(connection),
            )
        )
        servers = self._driver.servers()
        if not servers and any(row.compute_id for row in rows.values()):
            raise Unavailable("compute", "lists no server of Octavia's project, while Octavia has amphorae")
        for row in rows.values():
            if names.may_be_stuck(row) and row.age >= self._grace:
                yield Key("amphora", row.id)
        for identity, beat in beats.items():
            if identity not in rows and beat.silent >= self._grace:
                yield Key("amphora", identity)
        if not rows and not deleted:
            return  # what has no row at all is judged by nobody
        yield from self._sweep_compute(servers, rows, used_groups)
        yield from self._sweep_network(rows, used)

    def _sweep_compute(
        self, servers: Sequence[Server], rows: Mapping[str, records.Amphora], used_groups: frozenset[str]
    ) -> Iterator[Key]:
        owned = {row.compute_id for row in rows.values()}
        for server in servers:
            amphora = names.amphora_of_server(server.name)
            strange = amphora is not None and amphora not in rows and server.id not in owned
            if strange and not names.is_kept(server) and server.age >= self._grace:
                yield Key("server", server.id)
        groups = [group for group in self._driver.server_groups() if not group.members and group.id not in used_groups]
        yield from self._without_balancer("server-group", groups, names.balancer_of_server_group)

    def _sweep_network(self, rows: Mapping[str, records.Amphora], used: frozenset[str]) -> Iterator[Key]:
        ports = self._driver.ports()
        unused = [port for port in ports if port.id not in used and port.age >= self._grace]
        for port in unused:
            amphora = names.amphora_of_port(port.name)
            if amphora is not None and amphora not in rows:
                yield Key("port", port.id)
        yield from self._without_balancer("port", unused, names.balancer_of_port)
        in_use = {group for port in ports for group in port.security_groups}
        groups = [group for group in self._driver.security_groups() if group.id not in in_use]
        yield from self._without_balancer("security-group", groups, names.balancer_of_security_group)

    def _without_balancer(
        self, kind: str, things: Sequence[Port | Group], balancer_of: Callable[[str], str | None]
    ) -> Iterator[Key]:
        named = {thing.id: balancer for thing in things if (balancer := balancer_of(thing.name)) is not None}
        known = self._database.run(partial(queries.known_load_balancers, identities=set(named.values())))
        for identity, balancer in named.items():
            if known.get(balancer, "DELETED") == "DELETED":
                yield Key(kind, identity)

    def population(self) -> int:
        """How many amphora rows there are, deleted ones too."""
        return self._database.run(leftover_queries.count_amphorae)

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then remove, and look whether it is gone."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._database.require_known_schema()
        if finding not in self.inspect(finding.key):
            raise Conflict(f"{finding.key} is not as it was")
        remove: Callable[[Finding], Healed] = {
            "amphora": self._remove_amphora,
            "server": self._remove_server,
            "port": self._remove_port,
            "security-group": self._remove_security_group,
            "server-group": self._remove_server_group,
        }[finding.key.kind]
        return remove(finding)

    def _remove_amphora(self, finding: Finding) -> Healed:
        amphora, evidence = finding.key.id, finding.evidence
        if finding.problem == "orphan-health":
            forget = partial(changes.forget_health, amphora=amphora, older_than=self._grace)
            if not self._database.run(forget):
                raise Conflict(f"the heartbeat record of amphora {amphora} is not as it was")
            return Healed(f"deleted the heartbeat record of amphora {amphora}", undo="a living amphora writes it anew")
        if evidence["load_balancer"]:
            return self._fail_over(amphora, evidence["load_balancer"])
        try:
            Housekeeper(self._driver).remove_amphora([amphora])
        except NotFoundError as error:
            raise Conflict(str(error)) from error
        return Healed(
            f"removed amphora {amphora}: its server, its ports, and its row is DELETED",
            before=dict(evidence),
            after={"status": "DELETED"},
            undo=f"server and ports do not return; the row: UPDATE amphora SET status='{evidence['status']}' "
            f"WHERE id='{amphora}' AND status='DELETED'",
        )

    def _fail_over(self, amphora: str, balancer: str) -> Healed:
        row, found = self._rows(amphora)[0], self._balancer(balancer)
        if found is None or not found.idle:
            raise InFlight(f"Octavia is working on load balancer {balancer}")
        pool.make_room(self._driver, row)
        if found.status == "ACTIVE" and row.status == "PENDING_DELETE":
            self._driver.failover_amphora(amphora)
        else:
            self._driver.failover_load_balancer(balancer)
        return Healed(
            f"asked Octavia to replace amphora {amphora} of load balancer {balancer}, which was {found.status}",
            undo="a failover cannot be taken back; the next look tells whether it succeeded",
        )

    def _remove_server(self, finding: Finding) -> Healed:
        server = self._driver.server(finding.key.id)
        if server is None:
            raise Conflict(f"server {finding.key.id} is gone")
        removal.remove_server(self._driver, server)
        return Healed(f"deleted server {server.id} ({server.name})", before=dict(finding.evidence), undo=_GONE)

    def _remove_port(self, finding: Finding) -> Healed:
        port = self._driver.port(finding.key.id)
        if port is None or port.revision != finding.evidence["revision"]:
            raise Conflict(f"port {finding.key.id} is not as it was")
        removal.remove_port(self._driver, port)
        return Healed(f"deleted port {port.id} ({port.name})", before=dict(finding.evidence), undo=_GONE)

    def _remove_security_group(self, finding: Finding) -> Healed:
        self._driver.delete_security_group(finding.key.id)
        return self._gone(finding, self._driver.security_groups())

    def _remove_server_group(self, finding: Finding) -> Healed:
        self._driver.delete_server_group(finding.key.id)
        return self._gone(finding, self._driver.server_groups())

    def _gone(self, finding: Finding, left: Sequence[Group]) -> Healed:
        if _by_id(left, finding.key.id) is not None:
            raise DeleteFailed(f"{finding.key} is still there, although its deletion was accepted")
        return Healed(f"deleted {finding.key} ({finding.evidence['name']})", before=dict(finding.evidence), undo=_GONE)

    def _rows(self, amphora: str, server: str | None = None) -> tuple[records.Amphora, ...]:
        """The rows of an amphora and, if it is another, of the one whose server this is."""

        def read(connection: Any) -> tuple[records.Amphora, ...]:
            found = [queries.amphora(connection, amphora)]
            if server is not None:
                found.append(queries.amphora_of_server(connection, server))
            return tuple({row.id: row for row in found if row is not None}.values())

        return self._database.run(read)

    def _balancer(self, identity: str | None) -> records.LoadBalancer | None:
        return self._database.run(partial(queries.load_balancer, identity=identity)) if identity else None

    def _is_working(self, rows: Iterable[records.Amphora]) -> bool:
        found = [self._balancer(row.load_balancer_id) for row in rows]
        return any(balancer is not None and balancer.status.startswith("PENDING") for balancer in found)

    def _believe(self) -> None:
        """Do not take a database that knows no amphora at all for one that says that everything is gone."""
        if not self._database.run(leftover_queries.count_amphorae):
            raise Refused("Octavia's database has no amphora at all, not even a deleted one: is it the right one?")


def _by_id(groups: Iterable[Group], identity: str) -> Group | None:
    return next((group for group in groups if group.id == identity), None)


def _of_row(row: records.Amphora) -> dict[str, Any]:
    return {
        "status": row.status,
        "compute_id": row.compute_id,
        "load_balancer": row.load_balancer_id,
        "vrrp_port_id": row.vrrp_port_id,
        "updated_at": str(row.updated_at),
    }


def _of_server(server: Server) -> dict[str, Any]:
    return {"name": server.name, "status": server.status, "host": server.host, "flavor": server.flavor}


def _of_port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "project": port.project_id,
        "network": port.network_id,
        "mac": port.mac,
        "device_owner": port.device_owner,
        "device_id": port.device_id,
        "revision": port.revision,
    }
