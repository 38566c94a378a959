"""Removes amphorae that serve nothing, and the servers, ports and groups that Octavia left behind.

**What drifts.**

=========================  ==========================================================================================
amphora-deactivated        a row on no load balancer, in ERROR, READY or another state, with its server
amphora-eligible           such a row in ERROR, whose server stackmend preserves (``maximum_preserved_amphora_count``)
amphora-without-server     a row on no load balancer whose server is not in Nova
amphora-stuck              a row in a state of a flow, on a load balancer without a flow; or PENDING_DELETE on no load balancer
server-without-row         a server named ``amphora-<uuid>`` that no row of Octavia names
zombie-server              a server whose amphora is DELETED; it may still answer for an address of another amphora
leaked-port                a VRRP or member port of an amphora that is DELETED or has no row
leaked-vip-port            the VIP port of a load balancer that is DELETED or has no row
leaked-security-group      ``lb-<uuid>`` of a load balancer that is DELETED or has no row
leaked-server-group        ``octavia-lb-<uuid>`` of a load balancer that is DELETED or has no row, without members
leaked-image               an image that stackmend began for preservation, of an amphora that is DELETED or has no row
orphan-health              a heartbeat record of an amphora that is DELETED or has no row; counts for failover_threshold
load-balancer-leftovers    all leftovers of one load balancer, found after Octavia's notification of the deletion
=========================  ==========================================================================================

**Why Octavia lets it.** Octavia gives up a server or port that it could not delete in fifteen attempts. When a worker dies, the
flow ends halfway. When Nova fails while Octavia reverts a creation, only the row is deleted. The API call that deletes an
amphora is unreliable (:mod:`handlers.octavia.removal`).

**What is read.** Octavia's rows; servers, ports, security groups and server groups by name and project. Only a DELETED row
proves that the row's objects are leftovers. stackmend reports an object without a row. It removes such an object if
``deactivated_amphorae_without_rows`` is set and no port has the server's address. Object and row must be unchanged for
``deactivated_amphorae_after``, and two inspections must agree. For a DELETED load balancer, half a minute is enough: DELETED is
the flow's last write, and no other flow begins. stackmend removes nothing while Nova shows less than 90 % of the serving
amphorae's servers, or more than a few servers have no row. It removes a row in PENDING_DELETE only while no request waits in
Octavia's queue (:mod:`handlers.octavia.work_queue`).

**What is changed.** stackmend fails over an amphora that is stuck on a load balancer, and never deletes it. While there is
room, it preserves an amphora in ERROR on no load balancer by the steps of ``failed_amphora``
(:mod:`handlers.octavia.failover.rules`). Otherwise it asks Octavia's API to delete such an amphora. If the API fails, and for
every other state, stackmend itself removes server, ports and row (:mod:`handlers.octavia.removal`). It deletes servers, ports
and groups, then verifies their absence. A port must still have the inspected revision.

**What is not changed.** Objects outside Octavia's project. Preserved amphorae, spares and released servers. Rows of other
providers. Amphorae that serve, or are in ERROR on a load balancer: ``failed_amphora`` handles them. A load balancer whose
deletion or creation failed. Servers with random names (``random_amphora_name_length`` of Octavia).

**Undo.** Nothing restores a deleted object of Nova or Neutron. The history has the SQL statement that restores a row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.access.roles import AMPHORAE
from handlers.base import (
    Conflict,
    Finding,
    Handler,
    HandlerError,
    Healed,
    InFlight,
    Key,
    Mode,
    Privilege,
    Resources,
    Roles,
    Trigger,
    Unavailable,
)
from handlers.octavia import (
    changes,
    concerns,
    names,
    notifications,
    options,
    queries,
    rebuild,
    records,
    removal,
    settings,
)
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import AMPHORA, Group, Image, Port, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.failover import facts
from handlers.octavia.failover.actions import Actions
from handlers.octavia.failover.rules import next_step
from handlers.octavia.failover.steps import Deactivated, Nothing, Replaced, Step, Wait
from handlers.octavia.flow_times import age_or_default, flow_times
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.housekeeping import AmphoraDriverError, DeleteFailed, NotFoundError
from handlers.octavia.leftovers import queries as leftover_queries
from handlers.octavia.leftovers import rules
from handlers.octavia.leftovers.rules import Leftover, Place, Problem, Scope
from handlers.octavia.pairing import mismatch, pairing
from handlers.octavia.preserved import pool as preserved
from handlers.octavia.rehearsal import plan
from handlers.octavia.spares import pool
from handlers.octavia.work_queue import WorkQueue

LOG = logging.getLogger(__name__)

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "deactivated_amphorae_after",
        help="Seconds for which an object must be unchanged before it is removed. Unset: twice the time for which a flow "
        "of Octavia can work without a change, by the retries and timeouts in octavia.conf; a time below that is refused.",
    ),
    cfg.BoolOpt(
        "deactivated_amphorae_without_rows",
        default=False,
        help="Whether servers, ports and groups are removed that have names of Octavia but no row in its database. Set it "
        "only where no other Octavia uses the same project, in any region; else they are only reported.",
    ),
]

_GONE = "nothing returns it, and nothing uses it; Octavia creates what it needs again"

#: a leftover with the evidence for it, and its concerns
_Judged = tuple[Leftover, dict[str, Any], frozenset[str]]


class DeactivatedAmphorae(OctaviaPlugin, Handler):
    """:param grace: seconds for which an object must be unchanged
    :param without_rows: whether stackmend may remove objects that no row names
    """

    name = "deactivated_amphorae"
    title = "Remove amphorae that serve nothing, and the servers, ports and groups that Octavia left behind"
    group = settings.GROUP
    kinds = ("amphora", "server", "port", "security-group", "server-group", "image", "load-balancer")
    healable_problems = frozenset(Problem)
    triggers = (Trigger(notifications.DELETED, notifications.load_balancer, after=rules.SETTLED),)
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    follows = ("failed_amphora",)
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

    def __init__(self, driver: Driver, queue: WorkQueue, grace: float, without_rows: bool = False) -> None:
        self._driver = driver
        self._queue = queue
        self._database = driver.database
        self._grace = grace
        self._actions = Actions(driver, driver.settings)
        self._without_rows = without_rows

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        shared = super().options()
        return {**shared, settings.GROUP: [*shared[settings.GROUP], *OPTIONS]}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: octavia.conf is malformed, or ``deactivated_amphorae_after`` is shorter than a flow may take"""
        group = resources.conf[settings.GROUP]
        grace = age_or_default(
            group.deactivated_amphorae_after,
            flow_times(options.files(resources.conf)),
            "[housekeeping] deactivated_amphorae_after",
        )
        return cls(
            resources.get(chosen_driver),
            resources.get(WorkQueue.from_resources),
            grace,
            group.deactivated_amphorae_without_rows,
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        if key.kind == "load-balancer":
            return self._load_balancer(key)
        judge: Mapping[str, Callable[[str], Iterable[_Judged]]] = {
            "amphora": self._amphora,
            "server": self._server,
            "port": self._port,
            "security-group": self._security_group,
            "server-group": self._server_group,
            "image": self._image,
        }
        return [
            self._planned(
                Finding(key, found.problem, found.summary, evidence, not found.refusal, found.refusal, concerns=names)
            )
            for found, evidence, names in judge[key.kind](key.id)
        ]

    def _planned(self, finding: Finding) -> Finding:
        if not finding.healable:
            return finding
        return replace(finding, plan=plan(self._driver, lambda driver: self._on(driver)._write(finding)))

    def _on(self, driver: Driver) -> DeactivatedAmphorae:
        return DeactivatedAmphorae(driver, self._queue, self._grace, self._without_rows)

    def _load_balancer(self, key: Key) -> list[Finding]:
        balancer = self._balancer(key.id)
        if balancer is None or balancer.status != "DELETED" or balancer.provider not in records.AMPHORA_PROVIDERS:
            return []
        if balancer.age < rules.SETTLED:
            raise InFlight(f"load balancer {key.id} has just been deleted", rules.SETTLED - balancer.age)
        found = [finding for part in self._parts(balancer) for finding in self.inspect(part)]
        left = [finding for finding in found if finding.healable]
        reported = [finding for finding in found if not finding.healable]
        if not left:
            return reported
        summary = f"load balancer {key.id} is DELETED, and left {len(left)} objects: {_listed(left)}"
        evidence = {str(one.key): {"problem": one.problem, **one.evidence} for one in left}
        finding = Finding(
            key,
            Problem.BALANCER,
            summary,
            evidence,
            weight=len(left),
            plan="\n".join(one.plan for one in left),
            concerns=concerns.of_balancer(balancer).union(*(one.concerns for one in left)),
        )
        return [*reported, finding]

    def _parts(self, balancer: records.LoadBalancer) -> Iterator[Key]:
        """Yield a load balancer's objects in the order of removal, found by id or name.

        :raises InFlight: while Nova deletes a server
        """
        rows = self._database.run(partial(queries.amphorae_of, load_balancer=balancer.id))
        for identity in (row.compute_id for row in rows if row.compute_id):
            server = self._driver.server(identity)
            if server is not None and server.task_state is not None:
                raise InFlight(f"Nova is working on server {identity}: {server.task_state}", 10.0)
            if server is not None:
                yield Key("server", identity)
        named = [
            names.port_of_balancer(balancer.id),
            *(name for row in rows for name in names.ports_of_amphora(row.id)),
        ]
        yield from (Key("port", port.id) for port in self._driver.ports_named(named))
        group = rebuild.security_group(self._driver, balancer.id)
        if group is not None:
            yield Key("security-group", group.id)
        if balancer.server_group_id:
            yield Key("server-group", balancer.server_group_id)

    def _scope(self, *balancers: records.LoadBalancer | None) -> Scope:
        """Return the facts for decisions about objects of these load balancers; the grace is short if all are DELETED."""
        ended = bool(balancers) and all(found is not None and found.status == "DELETED" for found in balancers)
        grace = min(rules.SETTLED, self._grace) if ended else self._grace
        live, deleted = self._database.run(
            lambda connection: (queries.amphorae(connection), queries.deleted_amphorae(connection))
        )
        compared = pairing(self._driver.servers(), live, deleted)
        return Scope(self._driver.project(), grace, self._without_rows, mismatch(compared))

    def _amphora(self, identity: str) -> Iterable[_Judged]:
        row, beat = self._database.run(
            lambda connection: (queries.amphora(connection, identity), queries.health(connection, identity))
        )
        scope = self._scope()
        found = rules.health(scope, identity, row, beat)
        if found:
            yield found, {"amphora": identity}, concerns.named("amphora", identity)
        if row is None:
            return
        if names.in_flow(row, self._grace):
            raise InFlight(f"amphora {identity} is {row.status}, and Octavia may work on it", 60.0)
        server = self._driver.server(row.compute_id) if row.compute_id else None
        found = rules.row(scope, row, self._place(row.load_balancer_id), server)
        step = self._step(row) if rules.may_be_preserved(scope, row, found, server) else None
        if step is not None:
            text = f"amphora {identity}: {step.why or 'it is preserved'}; the next step: {step.summary}"
            evidence = {**_of_row(row), "step": step.name.value, "objects": list(step.objects)}
            yield Leftover(Problem.ELIGIBLE, text), evidence, self._concerns([row], server)
        elif found:
            yield self._unless_queued(found, row), _of_row(row), self._concerns([row], server)

    def _step(self, row: records.Amphora) -> Step | None:
        read = facts.read_deactivated(self._driver, self._driver.settings, row)
        return None if isinstance(read, Nothing) else self._decided(read)

    def _decided(self, read: Deactivated | Replaced) -> Step | None:
        decision = next_step(read, self._driver.settings)
        if isinstance(decision, Wait):
            raise InFlight(decision.reason, decision.after)
        return decision if isinstance(decision, Step) else None

    def _place(self, balancer: str | None) -> Place | None:
        found = self._balancer(balancer)
        if found is None:
            return None
        rows = self._database.run(partial(queries.amphorae_of, load_balancer=found.id))
        serving = sum(row.status in records.SERVING for row in rows)
        if found.status != "ERROR":
            return Place(found, serving)
        return Place(found, serving, rebuild.obstacle(rebuild.read(self._driver, found, rows)))

    def _unless_queued(self, found: Leftover, row: records.Amphora) -> Leftover:
        """Return the leftover, with a refusal if the amphora is PENDING_DELETE and its request may still wait in the queue.

        The API sets PENDING_DELETE before it sends the request; only workers set the other states of a flow.
        """
        if row.status != "PENDING_DELETE" or found.refusal:
            return found
        if self._queue.refusal:
            return Leftover(found.problem, found.summary, self._queue.refusal)
        self._queue.prove_idle(
            *self._database.run(lambda connection: (queries.open_requests(connection), queries.providers(connection)))
        )
        return found

    def _server(self, identity: str) -> Iterable[_Judged]:
        server = self._driver.server(identity)
        amphora = names.amphora_of_server(server.name) if server else None
        if server is None or amphora is None:
            return
        rows = self._rows(amphora, identity)
        rival = "" if rows else self._rival(identity)
        balancers = self._balancers(rows)
        found = rules.server(self._scope(*balancers), server, rows, _any_works(balancers), rival)
        if found:
            yield found, _of_server(server), self._concerns(rows, server) | concerns.named("amphora", amphora)

    def _rival(self, server: str) -> str:
        served = {
            (port.network_id, address) for port in self._driver.ports_of(server) for address in port.address_pairs
        }
        rivals = (port.id for network, address in sorted(served) for port in self._driver.ports_at(network, address))
        return next(rivals, "")

    def _port(self, identity: str) -> Iterable[_Judged]:
        port = self._driver.port(identity)
        if port is None:
            return
        used = identity in self._database.run(leftover_queries.used_ports)
        amphora = names.amphora_of_port(port.name)
        if amphora is not None:
            row = self._database.run(partial(queries.amphora, identity=amphora))
            attached = bool(port.device_id) and self._driver.server(port.device_id) is not None
            balancers = self._balancers([row] if row is not None else [])
            found = rules.amphora_port(self._scope(*balancers), port, row, _any_works(balancers), attached, used)
        else:
            balancer = self._balancer(names.balancer_of_port(port.name))
            found = rules.balancer_port(self._scope(balancer), port, balancer, used)
        if found:
            yield found, _of_port(port), self._concerns_of_port(port)

    def _security_group(self, identity: str) -> Iterable[_Judged]:
        group = _by_id(self._driver.security_groups(), identity)
        if group is None:
            return
        balancer = self._balancer(names.balancer_of_security_group(group.name))
        used = any(identity in port.security_groups for port in self._driver.ports())
        found = rules.security_group(self._scope(balancer), group, balancer, used)
        if found:
            yield found, {"name": group.name}, _of_group(group, names.balancer_of_security_group(group.name), balancer)

    def _server_group(self, identity: str) -> Iterable[_Judged]:
        group = _by_id(self._driver.server_groups(), identity)
        if group is None:
            return
        balancer = self._balancer(names.balancer_of_server_group(group.name))
        used = identity in self._database.run(leftover_queries.used_groups)
        found = rules.server_group(self._scope(balancer), group, balancer, used)
        if found:
            yield found, {"name": group.name}, _of_group(group, names.balancer_of_server_group(group.name), balancer)

    def _image(self, identity: str) -> Iterable[_Judged]:
        image = self._driver.image(identity)
        amphora = image.properties.get(AMPHORA) if image is not None else None
        if image is None or amphora is None or not self._is_ours(image):
            return
        row = self._database.run(partial(queries.amphora, identity=amphora))
        preserving = any(preserved.is_about(server, amphora) for server in self._driver.servers())
        found = rules.image(self._scope(), image, row, preserving)
        if found:
            about = concerns.named("amphora", amphora) | concerns.named("project", image.owner)
            yield found, {"name": image.name, "status": image.status}, about

    def _is_ours(self, image: Image) -> bool:
        return preserved.is_ours(image.properties, self._driver.settings.spare_owner)

    def sweep(self) -> Iterator[Key]:
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
            if names.may_be_stuck(row) and row.age >= self._grace and not row.is_device:
                yield Key("amphora", row.id)
        for identity in self._unfinished(servers):
            if identity in deleted and deleted[identity].load_balancer_id is None:
                yield Key("amphora", identity)
        for identity, beat in beats.items():
            if identity not in rows and beat.silent >= self._grace:
                yield Key("amphora", identity)
        if not rows and not deleted:
            return  # a database without any amphora proves nothing
        yield from self._sweep_compute(servers, rows, used_groups)
        yield from self._sweep_network(rows, used)
        for image in self._driver.images():
            left = self._is_ours(image) and not image.protected and image.age >= self._grace
            if left and image.properties.get(AMPHORA) not in rows:
                yield Key("image", image.id)

    def _unfinished(self, servers: Sequence[Server]) -> list[str]:
        """Return the marked amphorae that need a step, and the newest one if the pool is over its maximum."""
        kept, settings = preserved.assemble(servers, (), self._driver.settings.spare_owner), self._driver.settings
        complete = [one.amphora for one in kept if one.complete]
        over = settings.preservation_scheme == "cycle" and len(complete) > settings.maximum_preserved_amphora_count > 0
        return [*(one.amphora for one in kept if not one.complete), *(complete[-1:] if over else [])]

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
        return self._database.run(leftover_queries.count_amphorae)

    def heal(self, finding: Finding) -> Healed:
        self._database.require_known_schema()
        return self._write(self.prove_again(finding))

    def _write(self, now: Finding) -> Healed:
        match Problem(now.problem):
            case Problem.HEALTH:
                return self._forget_health(now.key.id)
            case Problem.ELIGIBLE:
                return self._preserve(now)
            case Problem.DEACTIVATED | Problem.WITHOUT_SERVER | Problem.STUCK:
                balancer = now.evidence["load_balancer"]
                return self._fail_over(now.key.id, balancer) if balancer else self._remove_amphora(now)
            case Problem.WITHOUT_ROW | Problem.ZOMBIE:
                return self._remove_server(now)
            case Problem.PORT | Problem.VIP_PORT:
                return self._remove_port(now)
            case Problem.SECURITY_GROUP:
                self._driver.delete_security_group(now.key.id)
                return _verified(now, self._driver.security_groups())
            case Problem.SERVER_GROUP:
                self._driver.delete_server_group(now.key.id)
                return _verified(now, self._driver.server_groups())
            case Problem.IMAGE:
                self._driver.delete_image(now.key.id)
                if self._driver.image(now.key.id) is not None:
                    raise DeleteFailed(f"{now.key} still exists, although its deletion was accepted")
                return Healed(f"deleted {now.key} ({now.evidence['name']})", before=dict(now.evidence), undo=_GONE)
            case Problem.BALANCER:
                return self._remove_leftovers(now)

    def _remove_leftovers(self, finding: Finding) -> Healed:
        """Prove again and remove each object of the finding; raise the first error if no removal succeeded."""
        removed: list[str] = []
        failures: list[AmphoraDriverError | HandlerError] = []
        for part, evidence in finding.evidence.items():
            rest = {name: value for name, value in evidence.items() if name != "problem"}
            try:
                self.heal(Finding(Key.parse(part), evidence["problem"], "", rest))
                removed.append(part)
            except (AmphoraDriverError, HandlerError) as error:
                LOG.warning("%s, which %s left, is not removed yet: %s", part, finding.key, error)
                failures.append(error)
        if not removed:
            raise failures[0]
        # a server that is gone leaves its ports
        complete = not failures and not any(part.startswith("server:") for part in removed)
        return Healed(
            f"removed {len(removed)} objects that {finding.key} left: {', '.join(removed)}",
            before={part: finding.evidence[part] for part in removed},
            undo=_GONE,
            complete=complete,
        )

    def _preserve(self, finding: Finding) -> Healed:
        row = self._database.run(partial(queries.amphora, identity=finding.key.id))
        read = facts.read_deactivated(self._driver, self._driver.settings, row) if row is not None else Nothing()
        step = None if isinstance(read, Nothing) else self._decided(read)
        if isinstance(read, Nothing) or step is None or step.name != finding.evidence["step"]:
            raise Conflict(f"{finding.key} is no longer as it was found")
        try:
            return replace(self._actions.take(read, step), complete=False)
        except NotFoundError as gone:
            raise Conflict(str(gone)) from gone

    def _forget_health(self, amphora: str) -> Healed:
        if not self._database.run(partial(changes.forget_health, amphora=amphora, older_than=self._grace)):
            raise Conflict(f"the heartbeat record of amphora {amphora} has changed")
        return Healed(
            f"deleted the heartbeat record of amphora {amphora}", undo="a living amphora writes its record again"
        )

    def _remove_amphora(self, finding: Finding) -> Healed:
        amphora, evidence = finding.key.id, finding.evidence
        try:
            Housekeeper(self._driver).remove_amphora([amphora])
        except NotFoundError as error:
            raise Conflict(str(error)) from error
        return Healed(
            f"removed amphora {amphora}: its server, its ports, and its row is DELETED",
            before=dict(evidence),
            after={"status": "DELETED"},
            undo=f"nothing returns server and ports; the row: UPDATE amphora SET status='{evidence['status']}' "
            f"WHERE id='{amphora}' AND status='DELETED'",
        )

    def _fail_over(self, amphora: str, balancer: str) -> Healed:
        row, found = self._rows(amphora)[0], self._balancer(balancer)
        if found is None or not found.idle:
            raise InFlight(f"Octavia is working on load balancer {balancer}")
        if found.status == "ERROR":
            rows = self._database.run(partial(queries.amphorae_of, load_balancer=balancer))
            remains = rebuild.require(self._driver, found, rows, found.age)
            rebuild.record_attempt(self._driver, remains.security_group, found, amphora)
        ready = pool.spares_for(self._driver, row)
        if found.status == "ACTIVE" and row.status == "PENDING_DELETE":
            self._driver.failover_amphora(amphora)
        else:
            self._driver.failover_load_balancer(balancer)
        spare = pool.make_room(self._driver, ready)
        return Healed(
            f"asked Octavia to replace amphora {amphora} of load balancer {balancer}, which was {found.status}"
            + pool.room_text(spare),
            undo="nothing takes a failover back; the next inspection shows whether it succeeded",
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
            raise Conflict(f"port {finding.key.id} has changed")
        removal.remove_port(self._driver, port)
        return Healed(f"deleted port {port.id} ({port.name})", before=dict(finding.evidence), undo=_GONE)

    def _rows(self, amphora: str, server: str | None = None) -> tuple[records.Amphora, ...]:
        def read(connection: Connection) -> tuple[records.Amphora, ...]:
            found = [queries.amphora(connection, amphora)]
            if server is not None:
                found.append(queries.amphora_of_server(connection, server))
            return tuple({row.id: row for row in found if row is not None}.values())

        return self._database.run(read)

    def _concerns(self, rows: Sequence[records.Amphora], server: Server | None) -> frozenset[str]:
        balancers = map(concerns.of_balancer, self._balancers(rows))
        return concerns.of_amphorae(rows).union(concerns.of_server(server), *balancers)

    def _concerns_of_port(self, port: Port) -> frozenset[str]:
        amphora, balancer = names.amphora_of_port(port.name), names.balancer_of_port(port.name)
        rows = self._rows(amphora) if amphora is not None else ()
        server = self._driver.server(port.device_id) if port.device_id else None
        about = concerns.named("project", port.project_id) | concerns.named("amphora", amphora)
        about |= concerns.named("load-balancer", balancer) | concerns.of_balancer(self._balancer(balancer))
        return about | self._concerns(rows, server)

    def _balancer(self, identity: str | None) -> records.LoadBalancer | None:
        return self._database.run(partial(queries.load_balancer, identity=identity)) if identity else None

    def _balancers(self, rows: Iterable[records.Amphora]) -> list[records.LoadBalancer | None]:
        return [self._balancer(row.load_balancer_id) for row in rows]


def _any_works(balancers: Iterable[records.LoadBalancer | None]) -> bool:
    return any(found is not None and found.status.startswith("PENDING") for found in balancers)


def _listed(findings: Iterable[Finding]) -> str:
    return ", ".join(str(finding.key) for finding in findings)


def _verified(finding: Finding, left: Sequence[Group]) -> Healed:
    if _by_id(left, finding.key.id) is not None:
        raise DeleteFailed(f"{finding.key} still exists, although its deletion was accepted")
    return Healed(f"deleted {finding.key} ({finding.evidence['name']})", before=dict(finding.evidence), undo=_GONE)


def _by_id(groups: Iterable[Group], identity: str) -> Group | None:
    return next((group for group in groups if group.id == identity), None)


def _of_group(group: Group, identity: str | None, balancer: records.LoadBalancer | None) -> frozenset[str]:
    """Return the concerns of a group.

    :param identity: the load balancer in the group's name
    """
    own = concerns.named("project", group.project_id) | concerns.named("load-balancer", identity)
    return own | concerns.of_balancer(balancer)


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
