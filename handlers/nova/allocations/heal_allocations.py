"""Gives instances in Placement what they are entitled to on the node where they live.

**What drifts.** A live instance holds nothing in Placement, or holds it of a node where it does not live, or for the wrong
project or user. The scheduler takes the resources that it uses for free and overfills the node; quotas count wrongly.

**Why Nova lets it.** An allocation is claimed, moved and swapped between instance and migration by several services, without
a transaction over Placement's database and Nova's; a roll-back that fails is logged and forgotten. Placement may have been
restored from a backup. nova-compute compares nothing: what is not there, it does not miss.

**What is read.** For one instance: what it holds; then build request and mapping; then in every cell, cell0 included, its
row and its migrations; in its own cell the compute node, the flavor in force, the image's properties, the root disk and the
cached ports. Which verdict follows from what is the table in :mod:`handlers.nova.allocations.missing_rules`; what it is entitled to is
computed by :mod:`handlers.nova.allocations.entitlement`, from flavor *and* image, and what its ports ask for besides (bandwidth,
packet rate) is found by :mod:`handlers.nova.allocations.port_requests`. Providers and Neutron are only asked when something is to be
given. When one cell does not answer there is no verdict at all. Without Neutron's answer only an instance goes on of which
Nova's cache says that it has no ports; others wait.

**What is changed.** The allocation of one instance, replaced as a whole at the generation of the evidence:

- ``allocation-missing``: it gets what flavor and image say, of its node's root provider, and what its ports ask for, of the
  providers which they name or which alone can give it; soft-deleted instances as well, from which they can return.
  Where up to a tenth of a node's instances plainly lack theirs, they are one finding with those of the next such nodes of the
  cell, ``allocations-missing``, and one write of up to fifty, which counts as one heal; where they are more, each is its own
  (:mod:`handlers.nova.allocations.batches`). Where not all fit on a node, those get it that do.
- ``wrong-provider``: the same, in place of what it held of other compute nodes. What it holds of providers that belong to no
  compute node (shared storage) stays and is not given twice.
- ``wrong-owner``: the same allocation, for the project and the user of the instance.

Before it, ``binding:profile`` of those of its ports that do not name their providers, at the revision of the evidence; taken
back when the allocation is refused. The order makes the next look complete what was interrupted
(:mod:`handlers.nova.allocations.port_allocations`).

**Why it cannot hurt.** Only an instance at rest is healed: no task, no migration in progress or waiting to be confirmed,
nothing changed for a minute by the database's clock, in exactly one cell, to which it is mapped.

- Whoever claims or moves between our read and our write changes the generation (for a missing one: makes the consumer), and
  our write fails; we look again. What was claimed before our read, the databases that we read later explain.
- An instance that is deleted while its missing allocation is written could get it after Nova had released it. So its row is
  read once more after the write, and the allocation is taken back when the instance is gone, is leaving or cannot be read.
  A deletion that begins later releases it itself. Where that look comes too late (Placement's answer to the write was lost),
  ``audit_allocations`` finds what a deleted instance holds.
- Placement lets nobody have more than there is: a full node refuses, which is reported, and others go on.

**What is not changed.** Amounts that differ from the flavor's are reported with the numbers. So is whatever cannot be told
from flavor and image: vGPUs, device profiles, encrypted or persistent memory, numbered groups of resources, classes that the
node has in nested or shared providers, ports with devices of Cyborg's, ports whose resources several providers could give, or
whose providers cannot give them. PCI devices are not in what is given: where they are tracked in
Placement, nova-compute adds them to an instance that holds something. What a migration that has ended still holds of the node
where the instance lives is not given a second time, but moved, by ``audit_migrations``. What it holds of another node is for
``audit_allocations`` to take, after this one has given; likewise what an instance holds besides its node.

The sweep finds instances of which their node's provider knows nothing or other amounts, those whose node is nowhere, and the
wrong owners of those projects and users for whom Placement counts too little (:mod:`handlers.nova.allocations.missing_sweep`). What
two owners hold of each other in equal amounts, or what a consumer that Nova does not know makes up for, is found when somebody
looks at the instance.

**Undo.** The exact ``openstack resource provider allocation set`` or ``delete`` is in the history.

Sources: ``nova/cmd/manage.py`` (heal_allocations), ``nova/scheduler/utils.py`` (ResourceRequest), ``nova/virt/hardware.py``,
``nova/compute/api.py`` (_local_delete, which releases before it deletes), ``nova/compute/manager.py``,
``placement/objects/allocation.py`` (replace_all).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Self

from handlers.access.neutron import Network
from handlers.access.roles import PLACEMENT, PORTS, PROFILES
from handlers.base import (
    Conflict,
    Finding,
    HandlerError,
    Healed,
    InFlight,
    Key,
    Mode,
    Refused,
    Resources,
    Roles,
    Trigger,
    Unavailable,
)
from handlers.nova import keys, queries
from handlers.nova.allocations import batches, port_allocations
from handlers.nova.allocations.batches import plain
from handlers.nova.allocations.candidates import Candidates
from handlers.nova.allocations.missing_facts import Reader
from handlers.nova.allocations.missing_rules import Drift, Facts, Give, decide, left
from handlers.nova.allocations.missing_sweep import Suspects
from handlers.nova.allocations.placement_cache import RecentPlacement
from handlers.nova.allocations.port_allocations import PortAllocations
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.base import NovaHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances
from handlers.nova.placement import Allocation, Held, Placement
from handlers.nova.records import Instance
from handlers.nova.verdicts import Report, Wait

#: seconds from a notification to the first look: its sender still writes
_WRITING = 5.0

_HINTS = (
    "instance.create.end",
    "instance.exists",
    "instance.live_migration_post_dest.end",
    "instance.live_migration_rollback.end",
    "instance.rebuild.end",
    "instance.resize_confirm.end",
    "instance.resize_finish.end",
    "instance.resize_revert.end",
    "instance.unshelve.end",
)


class HealAllocations(NovaHandler):
    """See the module."""

    name = "heal_allocations"
    title = "Give instances in Placement what they should hold, on the node where they live"
    kinds = ("instance", "host", batches.NODE, batches.NODES, batches.AMOUNTS)
    healable_problems = frozenset({"allocation-missing", "allocations-missing", "wrong-provider", "wrong-owner"})
    triggers = tuple(Trigger(event, keys.instance, after=_WRITING) for event in _HINTS)
    default_mode = Mode.HEAL
    default_interval = 600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One request to Placement per compute node, one per project and user, three queries per 25 nodes; ten minutes is fine "
        "for hundreds of nodes, an hour for thousands. Each instance that is looked at costs one request and a few queries by "
        "key in every cell; so does each of a project and user for whom too little is counted."
    )
    roles = Roles((PLACEMENT, PORTS), (PROFILES,))

    def __init__(
        self,
        databases: NovaDatabases,
        placement: Placement,
        recent: RecentPlacement,
        network: Network,
        candidates: Candidates,
    ) -> None:
        self._databases = databases
        self._placement = placement
        self._suspects = Suspects(databases, placement, partial(recent.held_of, task=self.name))
        self._reader = Reader(databases, placement, network)
        self._reader_of_many = Reader(databases, recent, network)
        self._ports = PortAllocations(network, candidates)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases and session."""
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Placement.from_resources),
            resources.get(RecentPlacement.from_resources),
            resources.get(Network.from_resources),
            resources.get(Candidates.from_resources),
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Compare what an instance holds with what it should, or of all those of a host that hold nothing there."""
        instances = self._meant(key)
        judged: list[batches.Judged] = []
        waits: list[Wait] = []
        reader = self._reader_of_many if key.kind in (batches.NODE, batches.NODES) else self._reader
        for start in range(0, len(instances), batches.BATCH):
            for facts in reader.facts(instances[start : start + batches.BATCH]):
                verdict = self._decide(facts)
                if isinstance(verdict, Wait):
                    waits.append(verdict)
                else:
                    judged.append((facts, verdict))
        alike, others = batches.alike(key, judged)
        findings = [_finding(key, facts, drift) for facts, drifts in others for drift in drifts] + alike
        if waits and not findings:
            soonest = min(waits, key=lambda wait: wait.after)
            raise InFlight(soonest.reason, soonest.after)
        return findings

    def sweep(self) -> Iterator[Key]:
        """Yield what does not seem to hold what it should; see :mod:`handlers.nova.allocations.missing_sweep`."""
        return self._suspects.everywhere()

    def population(self) -> int:
        """How many live instances there are in the cells that answer."""
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then replace the allocation at the generation of the evidence."""
        self._databases.require_known_schema()
        if not finding.healable:
            raise Refused(finding.refusal)
        if finding.problem == "allocations-missing":
            return self._heal_batch(finding)
        [facts] = self._reader.facts([finding.evidence["instance"]])
        verdict = self._decide(facts)
        if isinstance(verdict, Wait):
            raise InFlight(verdict.reason, verdict.after)
        for drift in verdict:
            if isinstance(drift, Give) and _same(finding, _finding(finding.key, facts, drift)):
                return self._give(facts, drift)
        raise Conflict(f"instance {finding.evidence['instance']} is not as it was")

    def _decide(self, facts: Facts) -> list[Drift] | Wait:
        """Decide, and add to what is given what the ports ask for."""
        verdict = decide(facts)
        if isinstance(verdict, Wait) or not isinstance(facts.ports, Needs):
            return verdict
        needs, homes = facts.ports, facts.homes
        return [self._ports.complete(needs, homes[0], one) if isinstance(one, Give) else one for one in verdict]

    def _give(self, facts: Facts, drift: Give) -> Healed:
        before, [row] = facts.allocation, facts.live
        instance = row.instance
        owned = dataclasses.replace(before, project_id=instance.project_id, user_id=instance.user_id)
        told = self._ports.tell(facts.ports, drift) if isinstance(facts.ports, Needs) else []
        try:
            self._placement.replace_allocation(owned, drift.providers)
            if not before.providers and self._gone(row.cell_id, {instance.uuid: (instance, drift.providers)}):
                raise Conflict(f"instance {instance.uuid} went away while its allocation was written")
        except Refused as error:
            self._ports.take_back(told)
            raise Refused(
                f"node {instance.node} cannot give {_amounts(drift.providers)}; is it full? {error}"
            ) from error
        except Conflict:
            self._ports.take_back(told)
            raise
        undo = before.undo() if before.providers else f"openstack resource provider allocation delete {instance.uuid}"
        return Healed(
            f"gave instance {instance.uuid} on {instance.node} {_amounts(drift.providers)} ({drift.problem})",
            before={**_owned(before), "generation": before.generation},
            after={**_owned(owned), "allocations": _plain(drift.providers), **_told(drift)},
            undo=undo + port_allocations.undo(drift),
        )

    def _heal_batch(self, finding: Finding) -> Healed:
        """Give those of them that are as they were, all at once; that they hold nothing is proved by the write itself.

        The databases are asked again; what the node offers, and that no port asks for anything, was proved just before.
        """
        expected = finding.evidence["instances"]
        self._suspects.forget(finding.key)
        due: dict[str, tuple[Instance, Held]] = {}
        cell_id = next(iter(expected.values()))["cell_id"]
        for facts in self._reader.again({uuid: one["give"] for uuid, one in expected.items()}):
            verdict = self._decide(facts)
            give = None if isinstance(verdict, Wait) else plain(facts, verdict)
            if give is not None and batches.part(facts, give) == expected[facts.allocation.consumer]:
                due[facts.allocation.consumer] = (facts.live[0].instance, give.providers)
        if not due:
            raise Conflict(f"nothing of {finding.key} is as it was")
        given = self._write(due)
        gone = self._gone(cell_id, given)
        stay = {uuid: _plain(held) for uuid, (_, held) in given.items() if uuid not in gone}
        if not stay:
            raise Conflict(f"the instances of {finding.key} went away while their allocations were written")
        where = batches.where(expected[uuid] for uuid in stay)
        return Healed(
            f"gave {len(stay)} instances on {where} what their flavors say (allocation-missing)",
            before={"allocations": {}},
            after={"allocations": stay},
            undo=batches.undo(list(stay)),
            complete=len(stay) == len(expected),
        )

    def _write(self, due: Mapping[str, tuple[Instance, Held]]) -> dict[str, tuple[Instance, Held]]:
        """Write allocations of instances that hold nothing; where not all fit, of those that do."""
        changes = [
            (Allocation(uuid, project_id=instance.project_id, user_id=instance.user_id), held)
            for uuid, (instance, held) in due.items()
        ]
        try:
            self._placement.replace_allocations(changes)
            return dict(due)
        except Refused as error:
            given = {}
            # Where Placement stops answering amid these, what was given before is still looked at again.
            with suppress(Unavailable):
                for change in changes:
                    with suppress(Refused, Conflict):
                        self._placement.replace_allocation(*change)
                        given[change[0].consumer] = due[change[0].consumer]
            if not given:
                raise Refused(f"the node cannot give {len(due)} instances what they should hold: {error}") from error
            return given

    def _gone(self, cell_id: int, given: Mapping[str, tuple[Instance, Held]]) -> set[str]:
        """Take back what was given to instances that went away meanwhile and may have been released before; return them.

        :raises Unavailable: when that cannot be told; it is taken back as well
        """
        try:
            now = self._reader.rows(cell_id, list(given))
        except Unavailable:
            self._take_back({uuid: held for uuid, (_, held) in given.items()})
            raise
        gone = {uuid for uuid, (instance, _) in given.items() if left(instance, now.get(uuid))}
        self._take_back({uuid: given[uuid][1] for uuid in gone})
        return gone

    def _take_back(self, given: Mapping[str, Held]) -> None:
        """Take back what was given to each, if it is still that; that one fails keeps the others from nothing."""
        failed: HandlerError | None = None
        for instance, held in given.items():
            try:
                now = self._placement.allocation(instance)
                if now.providers == held:
                    self._placement.replace_allocation(now, {})
            except HandlerError as error:
                failed = error
        if failed is not None:
            raise failed

    def _meant(self, key: Key) -> list[str]:
        """Return the instances that a key means: one, or those of a host or compute node with which something is wrong."""
        if key.kind == "instance":
            return [key.id]
        if found := self._suspects.just_found(key):
            return sorted(found)
        column = "host" if key.kind == "host" else "uuid"
        nodes_by_cell = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: queries.compute_nodes(connection, {column: key.id})
        )
        look = {
            batches.AMOUNTS: self._suspects.odd,
            batches.NODES: self._suspects.missing_together,
        }.get(key.kind, self._suspects.missing)
        return sorted({one for cell, nodes in nodes_by_cell.items() for node in nodes for one in look(cell, node)})


def _same(one: Finding, other: Finding) -> bool:
    return one.problem == other.problem and one.evidence == other.evidence


def _plain(held: Held) -> dict[str, dict[str, int]]:
    return {provider: dict(resources) for provider, resources in held.items()}


def _owned(allocation: Allocation) -> dict[str, Any]:
    return {
        "project_id": allocation.project_id,
        "user_id": allocation.user_id,
        "allocations": _plain(allocation.providers),
    }


def _told(give: Give) -> dict[str, Any]:
    return {"ports": dict(give.allocations)} if give.allocations else {}


def _amounts(held: Held) -> str:
    amounts = [f"{name}={amount}" for resources in held.values() for name, amount in sorted(resources.items())]
    return ", ".join(amounts)


def _finding(key: Key, facts: Facts, drift: Drift) -> Finding:
    instance, held = facts.live[0].instance, facts.allocation
    evidence: dict[str, Any] = {
        "instance": instance.uuid,
        "host": instance.host,
        "node": instance.node,
        "compute_nodes": list(facts.homes),
        "vm_state": instance.vm_state,
        "owner": [instance.project_id, instance.user_id],
        "generation": held.generation,
        **_owned(held),
    }
    if isinstance(drift, Give):
        evidence |= {"give": _plain(drift.providers), **_told(drift)}
        if isinstance(facts.ports, Needs) and facts.ports.requests:
            evidence["revisions"] = {one.port.id: one.port.revision for one in facts.ports.requests}
    refusal = drift.refusal if isinstance(drift, Report) else ""
    summary = f"{drift.summary} (instance {instance.uuid})"
    return Finding(key, drift.problem, summary, evidence, not refusal, refusal)
