"""Pure functions that decide whether a live instance has its entitlement in Placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from handlers.nova import concerns
from handlers.nova.allocations import moves
from handlers.nova.allocations.consumers import NOVA_TYPES, InstanceFacts
from handlers.nova.allocations.entitlement import Unbuildable, differences, total
from handlers.nova.allocations.port_requests import Needs, Unshown, is_port_class
from handlers.nova.placement import Allocation, Held
from handlers.nova.records import Instance, Migration
from handlers.nova.verdicts import BUSY, MOVED_SETTLE, NODE_GONE, Report, Wait

#: tasks at whose end Nova releases the allocation
_LEAVING = frozenset({"deleting", "shelving_offloading"})
#: project and user of allocations from before Placement knew them (``[placement] incomplete_consumer_project_id``)
UNKNOWN_OWNER = "00000000-0000-0000-0000-000000000000"
#: states in which an instance holds nothing
_NOWHERE = frozenset({"building", "deleted", "shelved_offloaded"})


class Problem(StrEnum):
    MISSING = "allocation-missing"
    SEVERAL_MISSING = "allocations-missing"
    WRONG_PROVIDER = "wrong-provider"
    WRONG_OWNER = "wrong-owner"
    WRONG_AMOUNTS = "wrong-amounts"
    NOTHING_AT_HOME = "nothing-at-home"
    NO_NODE = "node-unknown"
    GONE_PORTS = "resources-of-gone-ports"


@dataclass(frozen=True, slots=True)
class Facts(InstanceFacts):
    """The facts about an instance. ``nodes`` is empty if the instance has resources of exactly ``homes``.

    :param homes: the live compute nodes with the instance's host and node; normally one
    :param offers: capacity by class, for each provider of the node; empty if not read, or if Placement lacks the node
    :param owed: whether a migration has resources of the instance's node that belong to the instance (:func:`.moves.is_owed`)
    :param ports: the ports' requests, or why no allocation can be built from them; None if not read
    :param bound: as :func:`~handlers.nova.allocations.moves.bound_hosts` returns it; empty if not read
    """

    homes: tuple[str, ...] = ()
    offers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    wanted: Mapping[str, int] | Unbuildable = field(default_factory=dict)
    owed: bool = False
    ports: Needs | Unbuildable | None = None
    bound: frozenset[str] = frozenset()

    @property
    def moving(self) -> tuple[Migration, ...]:
        open_ones = (move for move in self.migrations if not move.deleted and not move.terminal)
        return tuple(move for move in open_ones if move.status != "finished")

    @property
    def concerns(self) -> frozenset[str]:
        rows = (row.concerns for row in self.rows)
        hosts = (concerns.named("host", *self.nodes[root]) for root in self.strays)
        return concerns.named("project", self.allocation.project_id).union(*rows, *hosts)

    @property
    def strays(self) -> frozenset[str]:
        return frozenset(root for root in self.roots.values() if root in self.nodes) - set(self.homes)

    @property
    def stray_names(self) -> str:
        return ", ".join(sorted(str(self.nodes[root][1]) for root in self.strays))

    @property
    def is_marked(self) -> bool:
        return self.mapping is not None and self.mapping.queued and self.instance.vm_state != "soft-delete"


@dataclass(frozen=True, slots=True)
class Give:
    """A drift that a heal can correct: the heal gives the instance exactly the resources in ``providers``.

    :param providers: amounts by provider and resource class
    :param allocations: the values of ``allocation`` to write into the ports' ``binding:profile``, by port id
    """

    problem: Problem
    summary: str
    providers: Held
    allocations: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)


Drift = Give | Report
Verdict = Sequence[Drift] | Wait


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    applies: Callable[[Facts], bool]
    verdict: Callable[[Facts], Verdict]


def has_departed(before: Instance, now: Instance | None) -> bool:
    """Return whether an instance has left its node or is leaving it, so that Nova can have released the allocation."""
    if now is None or now.deleted or (now.host, now.node) != (before.host, before.node):
        return True
    return now.task_state in _LEAVING or now.vm_state in {"deleted", "shelved_offloaded"}


def decide(facts: Facts) -> Verdict:
    verdict = rule_of(facts).verdict(facts)
    if isinstance(verdict, Wait) or not verdict:
        return verdict
    if facts.age < MOVED_SETTLE:
        return Wait("changed only just now", MOVED_SETTLE - facts.age)
    return [_unless_contradicted(facts, drift) for drift in verdict]


def rule_of(facts: Facts) -> Rule:
    return next(rule for rule in RULES if rule.applies(facts))


def _unless_contradicted(facts: Facts, drift: Drift) -> Drift:
    if facts.mapping is None or facts.mapping.cell_id != facts.row.cell_id:
        why = "the instance is not mapped to the cell it lives in: heal_instance_mappings and map_instances come first"
        return Report(drift.problem, drift.summary, why)
    if facts.is_marked and (isinstance(drift, Give) or drift.problem == Problem.MISSING):
        return Report(drift.problem, drift.summary, _marked(facts))
    if isinstance(drift, Give):
        why = next((why for reason in CONTRADICTIONS if (why := reason(facts, drift))), "")
        return Report(drift.problem, drift.summary, why) if why else drift
    return drift


def _of_another_owner(facts: Facts, give: Give) -> str:
    instance = facts.instance
    if facts.mapping is None or facts.mapping.names_owner(instance.project_id, instance.user_id):
        return ""
    return (
        "the instance's mapping names another project or user than its row. Either its cell was restored from before the "
        "instance moved to another project, or only one of these rows was changed: correct the wrong row first"
    )


def _of_unknown_user(facts: Facts, give: Give) -> str:
    mapping, held = facts.mapping, facts.allocation.user_id
    if give.problem != Problem.WRONG_OWNER or mapping is None or mapping.user_id is not None:
        return ""
    if held in {facts.instance.user_id, UNKNOWN_OWNER}:
        return ""
    return (
        "the instance's mapping, from before Nova's release Stein, names no user, so that only the instance's row contradicts "
        f"Placement. Find out whose the instance is; if it is {facts.instance.user_id}'s, run: "
        f"{_command(facts.instance, give)}"
    )


def _undecided(facts: Facts, give: Give) -> str:
    if give.problem != Problem.MISSING or not moves.ends_undecided(facts.migrations):
        return ""
    return (
        "its last live migration ended in error, so that the guest may run on either node. Look for the guest on both; if it "
        f"is on its host, run: {_command(facts.instance, give)}"
    )


def _marked(facts: Facts) -> str:
    if facts.allocation.providers:
        return "the instance's mapping marks it as deleted: heal_instance_mappings comes first"
    return (
        "the instance's mapping marks it as deleted, and Placement released it: its cell may have been restored from before "
        "the deletion. Look for the guest on its host; if there is none, delete the instance"
    )


def _unattested(facts: Facts, give: Give) -> str:
    if give.problem != Problem.MISSING or moves.is_attested(facts.here, facts.bound):
        return ""
    return (
        "Neutron does not bind all of its ports to its host, so that only its cell names the host. The cell may have been "
        "restored from before the instance was shelved. Look for the guest on its host; if it is there, run: "
        f"{_command(facts.instance, give)}"
    )


def _command(instance: Instance, give: Give) -> str:
    return Allocation(instance.uuid, give.providers, instance.project_id, instance.user_id).command()


#: Why an allocation that could be written must not be, in order.
CONTRADICTIONS: tuple[Callable[[Facts, Give], str], ...] = (
    _of_another_owner,
    _of_unknown_user,
    _undecided,
    _unattested,
)


def _nothing(facts: Facts) -> Verdict:
    return []


def _no_node(facts: Facts) -> Verdict:
    if facts.allocation.providers:
        return []  # audit_allocations reports it
    text = f"the instance holds nothing, and its node {facts.instance.node} has {len(facts.homes)} compute nodes"
    return [Report(Problem.NO_NODE, text, NODE_GONE)]


def _missing(facts: Facts) -> Verdict:
    text = f"the instance holds nothing, though it lives on {facts.instance.node}"
    return [_give(facts, Problem.MISSING, text, {})]


def _away(facts: Facts) -> Verdict:
    node = facts.instance.node
    if not facts.strays:
        text = f"the instance, on {node}, holds nothing of it, but of providers that are no compute node's"
        return [Report(Problem.NOTHING_AT_HOME, text, "nothing shows the purpose of the other providers")]
    text = f"the instance, on {node}, holds nothing of it, but of {facts.stray_names}"
    why = next((why for applies, why in IMMOVABLE if applies(facts)), "")
    if why:
        return [Report(Problem.WRONG_PROVIDER, text, why)]
    kept = {name: facts.allocation.providers[name] for name, root in facts.roots.items() if root not in facts.strays}
    return [_give(facts, Problem.WRONG_PROVIDER, text, kept)]


def _is_unexplained(facts: Facts) -> bool:
    return not all(moves.moved_between(facts.migrations, facts.here, facts.nodes[root]) for root in facts.strays)


#: Why an allocation cannot be moved to the instance's node, in order.
IMMOVABLE: tuple[tuple[Callable[[Facts], bool], str], ...] = (
    (
        lambda facts: any(facts.nodes[root] == facts.here for root in facts.strays),
        "the other one is an earlier compute node of the same host and name: see why it was replaced",
    ),
    (
        lambda facts: any(root in facts.strays and provider != root for provider, root in facts.roots.items()),
        "it holds devices there, and nothing shows which ones it has here",
    ),
    (
        _is_unexplained,
        "no ended migration explains it. Either the cell was restored from before a move, and the guest runs on the other "
        "node; or the row of the migration is lost. Look for the guest on both nodes",
    ),
    (lambda facts: not moves.is_attested(facts.here, facts.bound), moves.UNATTESTED),
)


def _at_home(facts: Facts) -> Verdict:
    return [*_owner(facts), *_amounts(facts), *_gone_ports(facts)]


def _give(facts: Facts, problem: Problem, summary: str, kept: Held) -> Drift:
    wanted = facts.wanted
    if isinstance(wanted, Unbuildable):
        return Report(problem, summary, wanted.reason)
    shared = total(kept)
    root = {name: amount for name, amount in wanted.items() if name not in shared}
    if any(wanted.get(name) != amount for name, amount in shared.items()):
        why = f"it also holds {_text(shared)} of other providers, which is not in its flavor"
        return Report(problem, summary, why)
    why = next((why for reason in UNSAFE if (why := reason(facts, root))), "")
    return Report(problem, summary, why) if why else Give(problem, summary, {**kept, facts.homes[0]: root})


def _ownerless(facts: Facts, root: Mapping[str, int]) -> str:
    owned = facts.instance.project_id and facts.instance.user_id
    return "" if owned else "the instance has no project or user"


def _forbidden_by_ports(facts: Facts, root: Mapping[str, int]) -> str:
    return facts.ports.reason if isinstance(facts.ports, Unbuildable) else ""


def _without_provider(facts: Facts, root: Mapping[str, int]) -> str:
    known = facts.homes[0] in facts.offers
    return "" if known else "its node has no provider in Placement: nova-compute makes it when it reports"


def _below(facts: Facts, root: Mapping[str, int]) -> str:
    nested = {name for provider, classes in facts.offers.items() if provider != facts.homes[0] for name in classes}
    below = sorted(nested & set(root))
    return f"its node has {', '.join(below)} in nested providers, and nothing shows which one gives it" if below else ""


def _lacking(facts: Facts, root: Mapping[str, int]) -> str:
    lacking = sorted(set(root) - set(facts.offers[facts.homes[0]]))
    return f"its node itself has no {', '.join(lacking)}: nothing shows which provider gives it" if lacking else ""


def _too_small(facts: Facts, root: Mapping[str, int]) -> str:
    offers = facts.offers[facts.homes[0]]
    small = sorted(name for name, amount in root.items() if amount > offers[name])
    if not small:
        return ""
    sizes = ", ".join(f"{name} {offers[name]} of {root[name]}" for name in small)
    return (
        f"its node can give too little in all ({sizes}), used or not: is its inventory reserved? Ironic reserves a node in "
        "use unless [workarounds] skip_reserve_in_use_ironic_nodes is set; clear the reservation first"
    )


#: Why an allocation cannot be written on the root provider of the instance's node, in order.
UNSAFE: tuple[Callable[[Facts, Mapping[str, int]], str], ...] = (
    _ownerless,
    _forbidden_by_ports,
    _without_provider,
    _below,
    _lacking,
    _too_small,
)


def _owner(facts: Facts) -> list[Drift]:
    held, instance = facts.allocation, facts.instance
    if (held.project_id, held.user_id) == (instance.project_id, instance.user_id):
        return []
    text = "the instance's resources are counted for another project or user"
    if not instance.project_id or not instance.user_id:
        return [Report(Problem.WRONG_OWNER, text, "the instance has no project or user")]
    return [Give(Problem.WRONG_OWNER, text, held.providers)]


def _amounts(facts: Facts) -> list[Drift]:
    if isinstance(facts.wanted, Unbuildable):
        return []
    wanted = {name: amount for name, amount in facts.wanted.items() if not is_port_class(name)}
    numbers = differences(wanted, facts.allocation.providers)
    if not numbers:
        return []
    why = (
        "nothing proves which of them is right. Compare the guest with its flavor; if the flavor is right, correct the amounts "
        f"in this command and run it: {facts.allocation.command()}"
    )
    return [Report(Problem.WRONG_AMOUNTS, f"the instance holds other amounts than its entitlement: {numbers}", why)]


def _gone_ports(facts: Facts) -> list[Drift]:
    match facts.ports:
        case Needs() as needs:
            cause = "either a port was deleted or detached, or its QoS policy changed"
        case Unshown(reason, needs):
            cause = f"Nova's network cache may name a deleted port ({reason}), or a QoS policy changed"
        case _:
            return []
    asked = needs.total()
    if not isinstance(facts.wanted, Unbuildable):
        asked = {name: asked.get(name, 0) + facts.wanted.get(name, 0) for name in {*asked, *facts.wanted}}
    held = {name: amount for name, amount in total(facts.allocation.providers).items() if is_port_class(name)}
    surplus = sorted(name for name, amount in held.items() if amount > asked.get(name, 0))
    if not surplus:
        return []
    numbers = ", ".join(f"{name} {held[name]} instead of {asked.get(name, 0)}" for name in surplus)
    text = f"the instance holds more than its ports ask for: {numbers}"
    why = (
        f"{cause}. Compare the allocation with the ports: "
        f"openstack port list --server {facts.instance.uuid}; then correct the amounts in this command and run it: "
        f"{facts.allocation.command()}"
    )
    return [Report(Problem.GONE_PORTS, text, why)]


def _text(resources: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={amount}" for name, amount in sorted(resources.items()))


RULES: tuple[Rule, ...] = (
    Rule(
        "being scheduled",
        lambda facts: facts.building or (facts.mapping is not None and facts.mapping.cell_id is None),
        _nothing,
    ),
    Rule("another service's consumer", lambda facts: facts.allocation.consumer_type not in NOVA_TYPES, _nothing),
    Rule("not alive", lambda facts: not facts.live, _nothing),
    Rule("cross-cell resize", lambda facts: any(row.instance.hidden for row in facts.live), _nothing),
    Rule("live in several cells", lambda facts: len(facts.live) > 1, _nothing),
    Rule(
        "on no host",
        lambda facts: (
            facts.row.in_cell0
            or facts.instance.host is None
            or facts.instance.node is None
            or facts.instance.vm_state in _NOWHERE
        ),
        _nothing,
    ),
    Rule(
        "a task",
        lambda facts: facts.instance.task_state is not None,
        lambda facts: Wait(f"the instance is {facts.instance.task_state}", BUSY),
    ),
    Rule(
        "a migration in progress",
        lambda facts: bool(facts.moving),
        lambda facts: Wait(f"a migration of the instance is {facts.moving[0].status}", BUSY),
    ),
    Rule(
        "waits for confirm or revert",
        lambda facts: moves.awaits_user(facts.instance.vm_state, facts.migrations, facts.here),
        _nothing,
    ),
    Rule("not one compute node", lambda facts: len(facts.homes) != 1, _no_node),
    Rule("a rolled-back migration holds it", lambda facts: facts.owed, _nothing),
    Rule("holds nothing", lambda facts: not facts.allocation.providers, _missing),
    Rule("holds nothing of its node", lambda facts: facts.homes[0] not in facts.roots.values(), _away),
    Rule("holds its node and another one", lambda facts: bool(facts.strays), _nothing),
    Rule("holds its node", lambda facts: True, _at_home),
)
