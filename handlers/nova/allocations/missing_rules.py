"""Decides whether a live instance holds what it is entitled to in Placement. Pure: facts in, verdicts out.

The rows of :func:`decide` are tried in order. Where a verdict is "give", what the instance should hold then is a part of
it; :func:`_unsafe` names what forbids to say so, and makes a report of it.

=====================================================  ==========================================================
what is known                                          verdict
=====================================================  ==========================================================
build request, mapping without cell, foreign consumer  nothing: not to be judged
no live row, a hidden one                              nothing
live in two cells                                      report when it holds nothing; else audit_allocations does
in cell0, no host, building, offloaded                 nothing: it should hold nothing yet, or no more
task state, or a migration in progress                 wait
waits for confirm or revert                            nothing: both sides are rightful
nothing of its node, and an ended migration does       report: audit_migrations moves it back
holds nothing                                          give what flavor and image say, on its node
holds its node and another one                         nothing: audit_allocations takes
holds nothing of its node, but of another one          give the same, and keep what belongs to no node
holds nothing of its node, nor of another              report
holds its node, for another owner                      give the same to the right owner
holds its node, in other amounts than flavor's         report
=====================================================  ==========================================================

What ports ask for is added later, by :mod:`handlers.nova.allocations.port_allocations`, which asks Placement for it.

Any of the verdicts only when nothing of all that changed during the last minute; and only a report when the instance is
not mapped to the cell in which it lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.excess_rules import NOVA_TYPES, Located
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.placement import Allocation, Held
from handlers.nova.records import Instance, InstanceMapping, Migration
from handlers.nova.verdicts import BUSY, MOVED_SETTLE, Report, Wait
from handlers.withheld import Withheld, is_withheld, refusal

#: tasks at whose end Nova releases the allocation
_LEAVING = frozenset({"deleting", "shelving_offloading"})
#: states in which an instance holds nothing
_NOWHERE = frozenset({"building", "deleted", "shelved_offloaded"})
#: what no device and no port adds to, so that an amount which the flavor does not explain is a wrong one
PLAIN = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})
WRONG_AMOUNTS = "wrong-amounts"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an instance.

    :param building: there is a build request
    :param rows: its rows in all cells, deleted and hidden ones too
    :param migrations: all migrations of it, deleted ones too
    :param homes: the live compute nodes of its host and node: one, when all is well
    :param roots: the root of each provider in the allocation
    :param nodes: host and node of those roots that are compute nodes, deleted ones too
    :param offers: the classes that each provider of its node's tree has; nothing, when Placement does not know the node
        (or when it was not asked because the instance holds something of its node)
    :param wanted: what flavor and image say
    :param lent: a migration that began on its node, and has ended, holds something of it, while the instance does not
    :param ports: what its ports ask for besides, or why they forbid to rebuild the allocation; read only when something
        is to be given
    """

    allocation: Allocation
    building: bool = False
    mapping: InstanceMapping | None = None
    rows: tuple[Located, ...] = ()
    migrations: tuple[Migration, ...] = ()
    homes: tuple[str, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    offers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    wanted: Mapping[str, int] | Unbuildable = field(default_factory=dict)
    lent: bool = False
    ports: Needs | Unbuildable = field(default_factory=Needs)

    @property
    def live(self) -> tuple[Located, ...]:
        """Its rows that are not deleted."""
        return tuple(row for row in self.rows if not row.instance.deleted)


@dataclass(frozen=True, slots=True)
class Give:
    """It should hold exactly these.

    :param allocations: what ports should say of their providers, by the port's id; only those that do not say it yet
    """

    problem: str
    summary: str
    providers: Held
    allocations: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)


Drift = Give | Report


def left(before: Instance, now: Instance | None) -> bool:
    """Whether an instance is no longer where it was, or is leaving, so that Nova may have released what it held."""
    if now is None or now.deleted or (now.host, now.node) != (before.host, before.node):
        return True
    return now.task_state in _LEAVING or now.vm_state in {"deleted", "shelved_offloaded"}


def decide(facts: Facts) -> list[Drift] | Wait:
    """Return what is wrong, or what to wait for; see the module."""
    if facts.building or (facts.mapping is not None and facts.mapping.cell_id is None):
        return []
    if facts.allocation.consumer_type not in NOVA_TYPES:
        return []
    live = facts.live
    if not live or any(row.instance.hidden for row in live):
        return []
    if len(live) > 1:
        text = "the instance lives in several cells, and holds nothing"
        report = Report("instance-in-several-cells", text, "delete the wrong copy first")
        return [] if facts.allocation.providers else [report]
    [row] = live
    if row.in_cell0 or row.instance.host is None or row.instance.node is None or row.instance.vm_state in _NOWHERE:
        return []
    return _at_rest(facts, row)


def _at_rest(facts: Facts, row: Located) -> list[Drift] | Wait:
    instance = row.instance
    if instance.task_state is not None:
        return Wait(f"the instance is {instance.task_state}", BUSY)
    moves = [move for move in facts.migrations if not move.deleted and not move.terminal]
    running = [move for move in moves if move.status != "finished"]
    if running:
        return Wait(f"a migration of the instance is {running[0].status}", BUSY)
    if moves or instance.vm_state == "resized":
        return []
    drifts = _drifts(facts, instance)
    age = min([one.instance.age for one in facts.rows] + [move.age for move in facts.migrations])
    if drifts and age < MOVED_SETTLE:
        return Wait("changed only just now", MOVED_SETTLE - age)
    if facts.mapping is None or facts.mapping.cell_id != row.cell_id:
        why = "the instance is not mapped to the cell it lives in: heal_instance_mappings and map_instances come first"
        return [Report(drift.problem, drift.summary, why) for drift in drifts]
    return [_unless_withheld(facts, instance, drift) for drift in drifts]


def _unless_withheld(facts: Facts, instance: Instance, drift: Drift) -> Drift:
    if not isinstance(drift, Give):
        return drift
    marked = facts.mapping is not None and facts.mapping.queued and instance.vm_state != "soft-delete"
    if drift.problem == "allocation-missing" and marked and is_withheld(Withheld.GIVE_TO_MARKED):
        return Report(drift.problem, drift.summary, refusal(Withheld.GIVE_TO_MARKED))
    if drift.problem == "wrong-provider" and is_withheld(Withheld.MOVE_ALLOCATION):
        return Report(drift.problem, drift.summary, refusal(Withheld.MOVE_ALLOCATION))
    return drift


def _drifts(facts: Facts, instance: Instance) -> list[Drift]:
    if len(facts.homes) != 1:
        if facts.allocation.providers:
            return []  # audit_allocations reports it
        text = f"the instance holds nothing, and its node {instance.node} has {len(facts.homes)} compute nodes"
        return [Report("node-unknown", text, "see nova-compute on its host")]
    [home] = facts.homes
    held = facts.allocation.providers
    if facts.lent:
        text = f"the instance holds nothing of its node {instance.node}, but a migration that has ended does"
        why = "it is not missing, and would be counted twice if it were given: audit_migrations moves it back"
        return [Report("held-by-a-migration", text, why)]
    if not held:
        text = f"the instance holds nothing, though it lives on {instance.node}"
        return [_give(facts, instance, "allocation-missing", text, {})]
    if home not in facts.roots.values():
        return [_away(facts, instance)]
    if any(root != home and root in facts.nodes for root in facts.roots.values()):
        return []  # audit_allocations takes what is too much
    return [*_owner(facts, instance), *_amounts(facts)]


def _away(facts: Facts, instance: Instance) -> Drift:
    """It holds something, but nothing of its node."""
    strays = {root for root in facts.roots.values() if root in facts.nodes}
    if not strays:
        text = f"the instance, on {instance.node}, holds nothing of it, but of providers that are no compute node's"
        return Report("nothing-at-home", text, "nothing tells what the others are for")
    where = ", ".join(sorted(str(facts.nodes[root][1]) for root in strays))
    text = f"the instance, on {instance.node}, holds nothing of it, but of {where}"
    if any(facts.nodes[root] == (instance.host, instance.node) for root in strays):
        why = "the other one is an earlier compute node of the same host and name: see why it was replaced"
        return Report("wrong-provider", text, why)
    if any(root in strays and provider != root for provider, root in facts.roots.items()):
        return Report("wrong-provider", text, "it holds devices there, and nothing tells which ones it has here")
    kept = {name: facts.allocation.providers[name] for name, root in facts.roots.items() if root not in strays}
    return _give(facts, instance, "wrong-provider", text, kept)


def _give(facts: Facts, instance: Instance, problem: str, summary: str, kept: Held) -> Drift:
    """Return that it should hold what flavor and image say, on its node but for what it keeps; or why not."""
    wanted = facts.wanted
    if isinstance(wanted, Unbuildable):
        return Report(problem, summary, wanted.reason)
    shared: dict[str, int] = {}
    for resources in kept.values():
        for name, amount in resources.items():
            shared[name] = shared.get(name, 0) + amount
    root = {name: amount for name, amount in wanted.items() if name not in shared}
    if any(wanted.get(name) != amount for name, amount in shared.items()):
        return Report(
            problem, summary, f"it also holds {_text(shared)} of other providers, which its flavor does not say"
        )
    why = _unsafe(facts, instance, root)
    return Report(problem, summary, why) if why else Give(problem, summary, {**kept, facts.homes[0]: root})


def _unsafe(facts: Facts, instance: Instance, root: Mapping[str, int]) -> str:
    """Return why this cannot be written on the root provider of its node; empty when it can."""
    if not instance.project_id or not instance.user_id:
        return "the instance has no project or user"
    if isinstance(facts.ports, Unbuildable):
        return facts.ports.reason
    [home] = facts.homes
    if home not in facts.offers:
        return "its node has no provider in Placement: nova-compute makes it when it reports"
    nested = {name for provider, classes in facts.offers.items() if provider != home for name in classes}
    below = sorted(nested & set(root))
    if below:
        return f"its node has {', '.join(below)} in nested providers, and nothing tells which one gives it"
    lacking = sorted(set(root) - facts.offers[home])
    return f"its node itself has no {', '.join(lacking)}: nothing tells which provider gives it" if lacking else ""


def _owner(facts: Facts, instance: Instance) -> list[Drift]:
    held = facts.allocation
    if (held.project_id, held.user_id) == (instance.project_id, instance.user_id):
        return []
    text = "what the instance holds is counted for another project or user"
    if not instance.project_id or not instance.user_id:
        return [Report("wrong-owner", text, "the instance has no project or user")]
    return [Give("wrong-owner", text, held.providers)]


def _amounts(facts: Facts) -> list[Drift]:
    wanted = facts.wanted
    if isinstance(wanted, Unbuildable):
        return []
    held: dict[str, int] = {}
    for resources in facts.allocation.providers.values():
        for name, amount in resources.items():
            held[name] = held.get(name, 0) + amount
    names = set(wanted) | (set(held) & PLAIN)
    if "PCPU" in wanted and "PCPU" not in held:
        names -= {"VCPU", "PCPU"}  # the scheduler fell back to a node that does not tell its pinned CPUs apart
    wrong = sorted(name for name in names if held.get(name, 0) != wanted.get(name, 0))
    if not wrong:
        return []
    numbers = ", ".join(f"{name} {held.get(name, 0)} instead of {wanted.get(name, 0)}" for name in wrong)
    why = "which of them is right is for a person to say: openstack resource provider allocation set"
    return [Report(WRONG_AMOUNTS, f"the instance holds other amounts than its flavor says: {numbers}", why)]


def _text(resources: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={amount}" for name, amount in sorted(resources.items()))
