"""Removes amphorae that serve nothing, and the servers, ports and groups that Octavia left behind.

**What drifts.**

=========================  ==========================================================================================
amphora-deactivated        a row on no load balancer, in any state except DELETED and PENDING_DELETE, whose server exists
amphora-eligible           a row in ERROR on no load balancer, whose server is to be preserved
                           (``maximum_preserved_amphora_count``); or a DELETED row whose preservation is incomplete
amphora-without-server     a row on no load balancer that is not DELETED, and has no server in Nova
amphora-stuck              a row in BOOTING or PENDING_* on a load balancer without a flow, or in PENDING_DELETE on no
                           load balancer
server-without-row         a server named ``amphora-<uuid>`` of which Octavia has no row
zombie-server              a server whose amphora is DELETED; it can still answer for an address of another amphora
leaked-port                a VRRP or member port of an amphora that is DELETED or has no row
leaked-vip-port            the VIP port of a load balancer that is DELETED or has no row
leaked-security-group      ``lb-<uuid>`` of a load balancer that is DELETED or has no row
leaked-server-group        ``octavia-lb-<uuid>`` of a load balancer that is DELETED or has no row, without members
leaked-image               an incomplete image of an amphora that is DELETED or has no row
orphan-health              a heartbeat record of an amphora that is DELETED or has no row; Octavia counts it as a failure
load-balancer-leftovers    the removable leftovers of one load balancer, after Octavia's notification of its deletion
=========================  ==========================================================================================

**Why Octavia lets it.** Octavia gives up a server or port that it could not delete in fifteen attempts. When a worker dies, the
flow ends halfway. When Nova fails while Octavia reverts a creation, Octavia deletes only the row. The API call that deletes an
amphora is unreliable (:mod:`handlers.octavia.removal`).

**What is read.** Octavia's rows; servers, ports, security groups and server groups by name and project. Only a DELETED row
proves that its objects are leftovers. stackmend only reports an object of the cloud without a row. With
``deactivated_amphorae_without_rows``, stackmend removes such an object too, except server groups, and servers that serve an
address of an existing port. The object must be older than ``deactivated_amphorae_after``, its row unchanged for as long, and
two inspections must agree. After the deletion of a load balancer, half a minute is enough, because the flow writes DELETED
after all removals. stackmend removes nothing but heartbeat records while database and cloud perhaps do not belong together.
Signs of this: Nova shows less than 90 % of the servers of amphorae on load balancers, or more than a few servers have no row.
stackmend removes an amphora in PENDING_DELETE only while no request waits in Octavia's queue
(:mod:`handlers.octavia.work_queue`).

**What is changed.** stackmend fails over an amphora that is stuck on a load balancer, and never deletes it. While the pool has
room, it preserves an amphora in ERROR on no load balancer by the steps of ``failed_amphora``
(:mod:`handlers.octavia.failover.rules`). Otherwise it asks Octavia's API to delete the amphora. stackmend itself removes the
server and ports that remain of a removed amphora, and sets the row to DELETED if Octavia did not
(:mod:`handlers.octavia.removal`). It verifies that deleted servers, ports, groups and images are gone. A leaked port must still
have the inspected revision.

**What is not changed.** Objects outside Octavia's project. Preserved amphorae, spares and released servers. Locked servers, and
servers that the row of another amphora names too: stackmend reports them. Rows without server, address and certificate, unless
their load balancer consists of amphorae: another provider perhaps owns them. But stackmend reports such rows in PENDING_CREATE
on no load balancer. Amphorae that serve, or are in ERROR on a load balancer:
``failed_amphora`` handles them. A load balancer whose deletion or creation failed. With Octavia's option
``[nova] random_amphora_name_length``: an amphora that has a server, and a server that Octavia left behind.

**Undo.** Nothing restores a deleted object of Nova or Neutron. The history has the SQL statement that restores a row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Self

from oslo_config import cfg

from handlers.access.roles import AMPHORAE
from handlers.base import (
    Finding,
    HandlerError,
    Healed,
    InFlight,
    Key,
    Mode,
    Privilege,
    Resources,
    Roles,
    Trigger,
)
from handlers.octavia import concerns, names, notifications, options, queries, rebuild, records, settings
from handlers.octavia.base import OctaviaHandler
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.flow_times import age_or_default, flow_times
from handlers.octavia.housekeeping import AmphoraDriverError
from handlers.octavia.leftovers import queries as leftover_queries
from handlers.octavia.leftovers import reading, rules
from handlers.octavia.leftovers.disposal import GONE, Disposal
from handlers.octavia.leftovers.judge import Judge
from handlers.octavia.leftovers.rules import Problem
from handlers.octavia.leftovers.suspects import Suspects
from handlers.octavia.rehearsal import plan
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
        help="Whether servers, ports and security groups are removed that have names of Octavia but no row in its database. "
        "Set it only where no other Octavia uses the same project, in any region; else they are only reported, as server "
        "groups without a row always are.",
    ),
]


class DeactivatedAmphorae(OctaviaHandler):
    """:param grace: seconds for which an object must be unchanged"""

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
    own_options = OPTIONS

    def __init__(self, driver: Driver, queue: WorkQueue, grace: float, without_rows: bool = False) -> None:
        self._driver = driver
        self._database = driver.database
        self._grace = grace
        self._judge = Judge(driver, queue, grace, without_rows)
        self._suspects = Suspects(driver, grace)
        self._disposal = Disposal(driver, grace)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: octavia.conf is malformed, or ``deactivated_amphorae_after`` is shorter than a flow can take"""
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
        return [
            self._planned(
                Finding(key, found.problem, found.summary, evidence, not found.refusal, found.refusal, concerns=names)
            )
            for found, evidence, names in self._judge.judge(key)
        ]

    def _planned(self, finding: Finding) -> Finding:
        if not finding.healable:
            return finding
        writes = plan(self._driver, lambda driver: Disposal(driver, self._grace).remove(finding))
        return replace(finding, plan=writes, undo=self._disposal.undo(finding))

    def _load_balancer(self, key: Key) -> list[Finding]:
        balancer = reading.balancer(self._driver, key.id)
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
            undo=GONE,
            plan="\n".join(one.plan for one in left),
            concerns=concerns.of_balancer(balancer).union(*(one.concerns for one in left)),
        )
        return [*reported, finding]

    def _parts(self, balancer: records.LoadBalancer) -> Iterator[Key]:
        """Yield the keys of a DELETED load balancer's servers, ports and groups, in the order of removal.

        :raises InFlight: while Nova works on a server
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

    def sweep(self) -> Iterator[Key]:
        return self._suspects.sweep()

    def population(self) -> int:
        return self._database.run(leftover_queries.count_amphorae)

    def heal(self, finding: Finding) -> Healed:
        self._database.require_known_schema()
        now = self.prove_again(finding)
        return self._remove_leftovers(now) if now.problem == Problem.BALANCER else self._disposal.remove(now)

    def _remove_leftovers(self, finding: Finding) -> Healed:
        """Prove each object of the finding again, and remove it."""
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
            undo=GONE,
            complete=complete,
        )


def _listed(findings: Iterable[Finding]) -> str:
    return ", ".join(str(finding.key) for finding in findings)
