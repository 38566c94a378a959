"""Gives each instance its entitlement: the resources in Placement of the node where it runs.

**What drifts.** A live instance has no allocation, or an allocation of another node or owner. So the scheduler overfills the
instance's node, or quotas count wrongly.

**Why Nova lets it.** Nova does not repeat a failed roll-back. Placement can come from an older backup. nova-compute never
restores a lost allocation.

**What is read.** First the allocation, then nova_api and every cell, last the ports. If one cell does not answer, the handler
decides nothing.

**What is changed.** One write replaces a whole allocation, at the generation of the evidence:

- ``allocation-missing``: the node's root provider gives the amounts of flavor and image. Neutron must bind all of
  the instance's ports to its host: a cell restored from before a shelving names the former host. The last ended
  migration is no live migration in ``error``, after which the guest can run on the other host. Resources for ports come
  from the providers that the ports name, or from the only possible providers.
- ``allocations-missing``: one write for up to fifty such instances whose ports request nothing. If Placement refuses
  the write, one write for each instance.
- ``wrong-provider``: the amounts of flavor and image replace the resources of other compute nodes. The completion or
  roll-back of a migration must have brought the instance from each of those nodes to its node. The last ended migration must
  not contradict this. Neutron must bind the ports as above. Shared storage stays and is not given twice.
- ``wrong-owner``: the allocation stays, but gets the project and user that the instance's row and its mapping name.

If the ports' ``binding:profile`` lacks providers, the handler first writes them there, at the revision of the evidence. If
Placement then refuses the allocation, the handler restores the ports. After an interruption, the next inspection completes the
heal.

**Why a race does no harm.** The instance is at rest, unchanged for a minute, and in exactly one cell. Its mapping names that
cell and the owner in the instance's row. ``queued_for_delete`` is false, unless the instance is soft-deleted.

- If Nova's scheduler allocates after our read, it changes the generation or makes the consumer, and our write fails. An earlier
  allocation shows in the databases, which we read later.
- Nova can delete the instance and release its allocation just before our write. So after the write of a first
  allocation, the handler reads the row again. The handler takes the allocation back if the instance is gone, is leaving or
  cannot be read.
- Placement refuses to overfill a node.

**What is not changed.** stackmend only reports:

- an instance without allocation whose mapping has ``queued_for_delete``, or without ports: its cell can come from an older
  backup
- wrong amounts, and resources for ports that are gone
- a node that is too small or reserved
- an entitlement that flavor and image do not determine, such as vGPUs, device profiles or persistent memory
- ports with several possible providers

The sweep misses two owners with equal amounts of each other's resources. It also misses a lack of DISK_GB or a custom class on
a node where no instance has any. An inspection finds both.

**Undo.** The history has the exact ``openstack resource provider allocation set`` or ``delete``, and ``openstack port unset``.

Sources: ``nova/cmd/manage.py`` (heal_allocations), ``nova/scheduler/utils.py`` (ResourceRequest), ``nova/virt/hardware.py``,
``nova/compute/api.py`` (_local_delete), ``nova/compute/manager.py`` (_shelve_offload_instance),
``placement/objects/allocation.py`` (replace_all).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from handlers.access.neutron import Network
from handlers.access.roles import PLACEMENT, PORTS, PROFILES
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    Json,
    Key,
    Mode,
    Refused,
    Resources,
    Roles,
    Trigger,
)
from handlers.nova import concerns, keys, queries
from handlers.nova.allocations import batches, port_allocations
from handlers.nova.allocations.batches import Kind
from handlers.nova.allocations.candidates import Candidates
from handlers.nova.allocations.grants import Grants
from handlers.nova.allocations.missing_facts import Reader
from handlers.nova.allocations.missing_rules import Drift, Facts, Give, Problem, decide
from handlers.nova.allocations.missing_sweep import Suspects
from handlers.nova.allocations.placement_cache import RecentPlacement
from handlers.nova.allocations.port_allocations import PortAllocations
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.base import NovaHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances, require_own_placement
from handlers.nova.placement import Allocation, Held, Placement, plain, replacing
from handlers.nova.verdicts import Report, Wait, findings_or_wait

#: seconds from a notification to the first inspection: its sender still writes
_WRITING = 5.0

_HINTS = (
    "instance.create.end",
    "instance.live_migration_post_dest.end",
    "instance.live_migration_rollback.end",
    "instance.rebuild.end",
    "instance.resize_confirm.end",
    "instance.resize_finish.end",
    "instance.resize_revert.end",
    "instance.unshelve.end",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    facts: Facts
    drift: Drift

    def to_json(self) -> Json:
        instance, allocation = self.facts.instance, self.facts.allocation
        stored: dict[str, Any] = {
            "instance": instance.uuid,
            "host": instance.host,
            "node": instance.node,
            "compute_nodes": list(self.facts.homes),
            "vm_state": instance.vm_state,
            "owner": [instance.project_id, instance.user_id],
            "generation": allocation.generation,
            **_owned(allocation),
        }
        if isinstance(self.drift, Give):
            stored |= {"give": plain(self.drift.providers), **_of_ports(self.drift)}
            if isinstance(self.facts.ports, Needs) and self.facts.ports.requests:
                stored["revisions"] = {one.port.id: one.port.revision for one in self.facts.ports.requests}
        return stored


@dataclass(frozen=True, slots=True)
class Proved(Finding):
    """A finding with the facts and the decision for the heal's write. The journal does not store ``facts`` and ``give``."""

    facts: Facts | None = field(default=None, compare=False)
    give: Give | None = field(default=None, compare=False)


class HealAllocations(NovaHandler):
    name = "heal_allocations"
    title = "Give instances in Placement their entitlement on the node where they live"
    kinds = ("instance", "host", *(kind.value for kind in Kind))
    healable_problems = frozenset(
        {Problem.MISSING, Problem.SEVERAL_MISSING, Problem.WRONG_PROVIDER, Problem.WRONG_OWNER}
    )
    concerned_kinds = concerns.KINDS
    triggers = (
        *(Trigger(event, keys.instance, after=_WRITING) for event in _HINTS),
        Trigger("instance.exists", keys.instance, after=_WRITING, periodic=True),
    )
    default_mode = Mode.HEAL
    follows = ("map_instances", "heal_instance_mappings", "audit_migrations")
    default_interval = 600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One request to Placement per compute node, as many for nested and sharing providers, one per project and user, three "
        "queries per 25 nodes; ten minutes is fine for hundreds of nodes, an hour for thousands. Each inspected instance costs "
        "one request and a few queries by key in every cell; so does each instance of a project and user whose sum in "
        "Placement is too small. For each fifty instances with resources for ports, Neutron gets one request."
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
        self._suspects = Suspects(databases, placement, partial(recent.consumers_of, task=self.name), network)
        self._reader = Reader(databases, placement, network)
        self._grants = Grants(placement, self._reader)
        self._reader_of_many = Reader(databases, recent, network)
        self._ports = PortAllocations(network, candidates)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Placement.from_resources),
            resources.get(RecentPlacement.from_resources),
            resources.get(Network.from_resources),
            resources.get(Candidates.from_resources),
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        instances = self._instances_of(key)
        judged: list[batches.Judged] = []
        waits: list[Wait] = []
        reader = self._reader_of_many if key.kind in (Kind.NODE, Kind.NODES) else self._reader
        for start in range(0, len(instances), batches.BATCH):
            for facts in reader.facts(instances[start : start + batches.BATCH]):
                verdict = self._decide(facts)
                if isinstance(verdict, Wait):
                    waits.append(verdict)
                else:
                    judged.append((facts, verdict))
        together, alone = batches.grouped(key, judged)
        findings = [_finding(key, facts, drift) for facts, drifts in alone for drift in drifts] + together
        return findings_or_wait(findings, waits)

    def sweep(self) -> Iterator[Key]:
        return self._suspects.everywhere()

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        require_own_placement(self._databases, self._placement)
        match finding.problem:
            case Problem.SEVERAL_MISSING:
                return self._heal_batch(finding)
            case Problem.MISSING | Problem.WRONG_PROVIDER | Problem.WRONG_OWNER:
                return self._heal_one(finding)
            case _:
                raise Refused(f"heal_allocations has no heal for {finding.problem}")

    def _heal_one(self, finding: Finding) -> Healed:
        # A key of a host or node stands for many instances: this one alone is proved, by fresh facts.
        alone = dataclasses.replace(finding, key=Key("instance", finding.evidence["instance"]))
        match self.prove_again(alone):
            case Proved(facts=Facts() as facts, give=Give() as give):
                return self._give(facts, give)
        raise Refused(f"{finding.problem} names nothing to give")

    def _decide(self, facts: Facts) -> Sequence[Drift] | Wait:
        verdict = decide(facts)
        needs = facts.ports
        if isinstance(verdict, Wait) or not isinstance(needs, Needs):
            return verdict
        return [self._with_ports(facts, needs, drift) for drift in verdict]

    def _with_ports(self, facts: Facts, needs: Needs, drift: Drift) -> Drift:
        match drift:
            case Give(problem=Problem.MISSING | Problem.WRONG_PROVIDER):
                return self._ports.complete(needs, facts.homes[0], drift)
            case _:
                return drift

    def _give(self, facts: Facts, drift: Give) -> Healed:
        before, row, owned = facts.allocation, facts.row, _owned_by_instance(facts)
        instance = row.instance
        ports = self._ports.write(facts.ports, drift) if isinstance(facts.ports, Needs) else []
        try:
            self._grants.one(owned, drift.providers)
            if not before.providers and self._grants.departed(
                row.cell_id, {instance.uuid: (instance, drift.providers)}
            ):
                raise Conflict(f"instance {instance.uuid} went away while its allocation was written")
        except Refused as error:
            self._ports.take_back(ports)
            raise Refused(
                f"node {instance.node} cannot give {_amounts(drift.providers)}; is it full? {error}"
            ) from error
        except Conflict:
            self._ports.take_back(ports)
            raise
        return Healed(
            f"gave instance {instance.uuid} on {instance.node} {_amounts(drift.providers)} ({drift.problem})",
            before={**_owned(before), "generation": before.generation},
            after={**_owned(owned), "allocations": plain(drift.providers), **_of_ports(drift)},
            undo=_undo(before, drift),
        )

    def _heal_batch(self, finding: Finding) -> Healed:
        expected = finding.evidence["instances"]
        self._suspects.forget(finding.key)
        due: dict[str, batches.Missing] = {}
        cell_id = next(iter(expected.values()))["cell_id"]
        for facts in self._reader.again({uuid: one["give"] for uuid, one in expected.items()}):
            verdict = self._decide(facts)
            missing = None if isinstance(verdict, Wait) else batches.simple_of(facts, verdict)
            if missing is not None and missing.to_json() == expected[facts.allocation.consumer]:
                due[facts.allocation.consumer] = missing
        if not due:
            raise Conflict(f"no instance of {finding.key} is as it was found")
        granted = self._grants.several(due)
        written = {
            uuid: (due[uuid].facts.instance, due[uuid].give.providers)
            for uuid in (*granted.confirmed, *granted.unanswered)
        }
        departed = self._grants.departed(cell_id, written)
        stay = [uuid for uuid in granted.confirmed if uuid not in departed]
        unknown = [uuid for uuid in granted.unanswered if uuid not in departed]
        if not stay and not unknown:
            raise Conflict(f"the instances of {finding.key} went away while their allocations were written")
        where = batches.where(expected[uuid] for uuid in (*stay, *unknown))
        return Healed(
            f"gave {len(stay)} instances on {where} the resources of their flavors ({Problem.MISSING})"
            + "".join(f"; Placement did not answer for instance {uuid}" for uuid in unknown),
            before={"allocations": {}},
            after={
                "allocations": {uuid: plain(written[uuid][1]) for uuid in stay},
                **({"unanswered": unknown} if unknown else {}),
            },
            undo=batches.undo([*stay, *unknown]),
            complete=len(stay) == len(expected),
        )

    def _instances_of(self, key: Key) -> list[str]:
        if key.kind == "instance":
            return [key.id]
        if found := self._suspects.just_found(key):
            return sorted(found)
        column = "host" if key.kind == "host" else "uuid"
        nodes_by_cell = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: queries.compute_nodes(connection, {column: key.id})
        )
        suspects_on = {
            Kind.AMOUNTS.value: self._suspects.odd,
            Kind.NODES.value: self._suspects.missing_together,
        }.get(key.kind, self._suspects.missing)
        return sorted(
            {one for cell, nodes in nodes_by_cell.items() for node in nodes for one in suspects_on(cell, node)}
        )


def _owned(allocation: Allocation) -> dict[str, Any]:
    return {
        "project_id": allocation.project_id,
        "user_id": allocation.user_id,
        "allocations": plain(allocation.providers),
    }


def _of_ports(give: Give) -> dict[str, Any]:
    return {"ports": dict(give.allocations)} if give.allocations else {}


def _amounts(held: Held) -> str:
    amounts = [f"{name}={amount}" for resources in held.values() for name, amount in sorted(resources.items())]
    return ", ".join(amounts)


def _undo(before: Allocation, give: Give) -> str:
    empty = f"openstack resource provider allocation delete {before.consumer}"
    return (before.command() if before.providers else empty) + port_allocations.undo(give)


def _plan(facts: Facts, give: Give) -> str:
    ports = port_allocations.writes(facts.ports, give) if isinstance(facts.ports, Needs) else []
    return "\n".join(map(str, [*ports, replacing(_owned_by_instance(facts), give.providers)]))


def _owned_by_instance(facts: Facts) -> Allocation:
    return dataclasses.replace(facts.allocation, project_id=facts.instance.project_id, user_id=facts.instance.user_id)


def _finding(key: Key, facts: Facts, drift: Drift) -> Finding:
    evidence = Evidence(facts, drift).to_json()
    problem, summary = str(drift.problem), f"{drift.summary} (instance {facts.instance.uuid})"
    match drift:
        case Give() as give:
            return Proved(
                key,
                problem,
                summary,
                evidence,
                undo=_undo(facts.allocation, give),
                plan=_plan(facts, give),
                concerns=facts.concerns,
                facts=facts,
                give=give,
            )
        case Report(refusal=refusal):
            return Finding(key, problem, summary, evidence, not refusal, refusal, concerns=facts.concerns)
