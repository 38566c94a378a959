"""Pure functions that decide which resources in Placement a consumer has a right to.

A verdict takes a resource only if the facts prove that the consumer has no right to it. For :class:`TakeIfWitnessed`, an
operator must attest this. ``audit_migrations`` uses only :class:`Move` and :class:`Wait`. ``audit_allocations`` uses all
verdicts but :class:`Move`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from handlers.nova.allocations import moves
from handlers.nova.allocations.consumers import NOVA_TYPES, Facts, Move, Problem, Take, TakeIfWitnessed, Verdict
from handlers.nova.allocations.entitlement import Unbuildable, differences
from handlers.nova.allocations.moves import Place
from handlers.nova.verdicts import BUSY, DELETED_SETTLE, MOVED_SETTLE, NODE_GONE, Keep, Report, Wait


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    applies: Callable[[Facts], bool]
    verdict: Callable[[Facts], Verdict]


def decide(facts: Facts) -> Verdict:
    return rule_of(facts).verdict(facts)


def needs_bindings(verdict: Verdict) -> bool:
    """Return whether a verdict needs Neutron's port bindings as second witness, because only one cell proves the verdict."""
    match verdict:
        case Take(problem=Problem.LEFT_BEHIND) | Move(refusal=""):
            return True
        case _:
            return False


def unless_unattested(verdict: Verdict, here: Place, bound: frozenset[str]) -> Verdict:
    """Return the verdict unchanged if it needs no port bindings, or if Neutron binds all ports to the instance's host.

    Otherwise, return a verdict that stackmend only reports.
    """
    if not needs_bindings(verdict) or moves.is_attested(here, bound):
        return verdict
    match verdict:
        case Take(problem=problem, summary=summary):
            return Report(problem, summary, moves.UNATTESTED)
        case Move():
            return replace(verdict, refusal=moves.UNATTESTED)
        case _:
            return verdict


def rule_of(facts: Facts) -> Rule:
    return next(rule for rule in RULES if rule.applies(facts))


def _keep(reason: str) -> Callable[[Facts], Keep]:
    return lambda facts: Keep(reason)


def _take_all(problem: Problem, summary: str) -> Callable[[Facts], Take]:
    return lambda facts: Take(problem, summary)


def _report(problem: Problem, summary: str, refusal: str) -> Callable[[Facts], Report]:
    return lambda facts: Report(problem, summary, refusal)


def _settle(facts: Facts) -> float:
    return DELETED_SETTLE if facts.migration is None else MOVED_SETTLE


def _deleted(facts: Facts) -> Verdict:
    what = "an instance" if facts.migration is None else "a migration of an instance"
    return Take(Problem.DELETED, f"{what} that is deleted still holds resources")


def _needs_its_own_first(facts: Facts) -> bool:
    move = facts.migration
    if move is None or facts.home is None or facts.is_at_home:
        return False
    return not moves.is_owed(move, facts.migrations, facts.here)


def _leftover(facts: Facts) -> Verdict:
    status = "" if facts.migration is None else facts.migration.status
    return Take(Problem.LEFTOVER, f"a migration that is {status} still holds resources")


def _unproved(facts: Facts) -> Verdict:
    return Report(
        Problem.UNPROVED,
        f"a migration holds resources of {facts.stray_names}, and its instance holds those of its node",
        "no ended migration proves that the instance left that node; look for the guest on both nodes",
    )


def _misplaced(facts: Facts) -> Verdict:
    status = "" if facts.migration is None else facts.migration.status
    return Move(
        Problem.MISPLACED,
        f"a migration that is {status} holds resources, and its instance holds none of its own node",
        next((why for applies, why in IMMOVABLE if applies(facts)), "") or _differs_from_flavor(facts),
    )


def _is_unfinished(facts: Facts) -> bool:
    return facts.migration is not None and not facts.migration.terminal


def _is_undecided(facts: Facts) -> bool:
    return facts.migration is not None and moves.is_undecided(facts.migration)


def _is_marked(facts: Facts) -> bool:
    return facts.mapping is not None and facts.mapping.queued and facts.instance.vm_state != "soft-delete"


def _own_is_unexplained(facts: Facts) -> bool:
    named = {place for move in facts.migrations if move.terminal for place in (move.source, move.dest)}
    extra = facts.roots_of(facts.own) - facts.roots_of(facts.allocation.providers)
    return any(facts.nodes.get(root) not in named for root in extra)


def _differs_from_flavor(facts: Facts) -> str:
    match facts.wanted:
        case None:
            return "the instance's flavor was not read"
        case Unbuildable(reason):
            return f"nothing proves that these are the right amounts: {reason}"
        case wanted:
            wrong = differences(wanted, facts.allocation.providers)
            return f"the amounts differ from the instance's flavor: {wrong}" if wrong else ""


#: Why no heal can move a migration's resources to the instance, in order. The last reason is a difference from the flavor.
IMMOVABLE: tuple[tuple[Callable[[Facts], bool], str], ...] = (
    (_is_unfinished, "the migration's row is deleted, though it did not end and its instance lives"),
    (_is_undecided, "a live migration in error does not prove on which node the guest runs"),
    (lambda facts: facts.home is None, "the node where the instance lives does not have exactly one compute node"),
    (
        lambda facts: not facts.is_mapped,
        "the instance is not mapped to the cell it lives in: heal_instance_mappings and map_instances come first",
    ),
    (
        _is_marked,
        "the instance's mapping marks it as deleted: its cell may have been restored from before the deletion",
    ),
    (
        lambda facts: facts.home not in facts.roots_of(facts.allocation.providers),
        "it holds nothing of the node where the instance lives",
    ),
    (lambda facts: bool(facts.strays), "it also holds resources of another compute node"),
    (_own_is_unexplained, "the instance holds resources that no migration explains, and moving would take them away"),
)


def _take_strays(facts: Facts) -> Verdict:
    keep = {
        provider: resources
        for provider, resources in facts.allocation.providers.items()
        if facts.roots.get(provider, provider) not in facts.strays
    }
    summary = f"the instance, on {facts.instance.node}, still holds resources of {facts.stray_names}"
    return Take(Problem.LEFT_BEHIND, summary, keep)


RULES: tuple[Rule, ...] = (
    Rule("holds nothing", lambda facts: not facts.allocation.providers, _keep("holds nothing")),
    Rule(
        "another service's consumer",
        lambda facts: facts.allocation.consumer_type not in NOVA_TYPES,
        lambda facts: Keep(f"is a {facts.allocation.consumer_type}, which is not Nova's"),
    ),
    Rule("build request", lambda facts: facts.building, _keep("has a build request: it is being scheduled")),
    Rule(
        "mapping without cell",
        lambda facts: facts.mapping is not None and facts.mapping.cell_id is None,
        _keep("is mapped to no cell yet: it is being scheduled"),
    ),
    Rule(
        "archived, but mapped as alive",
        lambda facts: not facts.rows and facts.archived and facts.mapping is not None and not facts.mapping.queued,
        _report(
            Problem.ARCHIVED,
            "an instance is archived in one cell, its mapping does not mark it as deleted, and it holds resources",
            "the mapping's cell may have been restored from before the instance came there; look for the guest on its hosts",
        ),
    ),
    Rule(
        "archived",
        lambda facts: not facts.rows and facts.archived,
        _take_all(Problem.ARCHIVED, "a deleted, archived instance still holds resources"),
    ),
    Rule(
        "no row anywhere",
        lambda facts: not facts.rows,
        lambda facts: TakeIfWitnessed(
            Problem.UNKNOWN,
            "a consumer that Nova does not know holds resources of a compute node",
            "Nova has no trace of it, not even archived. Either another service owns it, or its rows were purged. Look for "
            "its uuid in the other services that use Placement; if none knows it, run: "
            f"openstack resource provider allocation delete {facts.allocation.consumer}",
        ),
    ),
    Rule(
        "only hidden copies, all deleted",
        lambda facts: not facts.live and all(row.instance.hidden for row in facts.rows),
        _report(
            Problem.ONLY_HIDDEN,
            "only hidden, deleted copies of the instance are left, and it still holds resources",
            "a hidden copy does not prove that the instance was deleted",
        ),
    ),
    Rule(
        "deleted a moment ago",
        lambda facts: not facts.live and min(row.instance.age for row in facts.rows) < _settle(facts),
        lambda facts: Wait("was deleted only just now", _settle(facts) - min(row.instance.age for row in facts.rows)),
    ),
    Rule(
        "deleted, but mapped to another cell",
        lambda facts: not facts.live and facts.is_mapped_elsewhere,
        _report(
            Problem.DELETED,
            "an instance is deleted in one cell, mapped to another cell as alive, and holds resources",
            "the other cell may have been restored from before the instance came there; look for the guest on its hosts",
        ),
    ),
    Rule("deleted", lambda facts: not facts.live, _deleted),
    Rule(
        "a live hidden copy",
        lambda facts: any(row.instance.hidden for row in facts.live),
        _keep("a cross-cell resize is under way: both copies of the instance count"),
    ),
    Rule(
        "live in several cells",
        lambda facts: len(facts.live) > 1,
        _keep("heal_instance_mappings and map_instances report an instance that lives in several cells"),
    ),
    Rule(
        "a task",
        lambda facts: facts.instance.task_state is not None,
        lambda facts: Wait(f"the instance is {facts.instance.task_state}", BUSY),
    ),
    Rule(
        "about to be deleted",
        lambda facts: facts.instance.vm_state == "deleted",
        lambda facts: Wait("the instance is being deleted: its row follows", BUSY),
    ),
    Rule(
        "a migration in progress",
        lambda facts: any(move.status != "finished" for move in facts.moving),
        lambda facts: Wait(
            f"a migration of the instance is {next(move.status for move in facts.moving if move.status != 'finished')}",
            BUSY,
        ),
    ),
    Rule(
        "waits for confirm or revert",
        lambda facts: moves.awaits_user(facts.instance.vm_state, facts.migrations, facts.here),
        _keep("a resize waits for the user: both sides count"),
    ),
    Rule(
        "building",
        lambda facts: facts.migration is None and facts.instance.host is None and facts.instance.vm_state == "building",
        _keep("is being built"),
    ),
    Rule(
        "garbage of a migration, instance without its own",
        _needs_its_own_first,
        _keep("heal_allocations gives the instance its own node first"),
    ),
    Rule(
        "holds its node only",
        lambda facts: facts.migration is None and facts.is_at_home and not facts.strays,
        _keep("holds its node"),
    ),
    Rule(
        "holds nothing of its node",
        lambda facts: facts.migration is None and facts.home is not None and not facts.is_at_home,
        _keep("heal_allocations and audit_migrations judge an instance that holds nothing of its node"),
    ),
    Rule(
        "changed a moment ago",
        lambda facts: facts.age < MOVED_SETTLE,
        lambda facts: Wait("changed only just now", MOVED_SETTLE - facts.age),
    ),
    Rule(
        "ended migration, instance holds its own",
        lambda facts: (
            facts.migration is not None and facts.migration.terminal and facts.is_at_home and facts.strays_are_left
        ),
        _leftover,
    ),
    Rule(
        "migration of a node that nothing proves left",
        lambda facts: facts.migration is not None and facts.is_at_home,
        _unproved,
    ),
    Rule("migration, instance without its own", lambda facts: facts.migration is not None, _misplaced),
    Rule(
        "in cell0",
        lambda facts: facts.row.in_cell0 and facts.instance.host is None and facts.is_mapped,
        _take_all(Problem.IN_CELL0, "an instance that was never scheduled holds resources"),
    ),
    Rule(
        "shelved and offloaded",
        lambda facts: (
            not facts.row.in_cell0
            and facts.instance.host is None
            and facts.instance.vm_state == "shelved_offloaded"
            and facts.is_mapped
        ),
        lambda facts: Report(
            Problem.OFFLOADED,
            "an instance that is shelved and offloaded holds resources",
            "only its row shows that no host runs it, and a restored database has such a row of a running instance. Make sure "
            f"that no host runs it, then: openstack resource provider allocation delete {facts.instance.uuid}",
        ),
    ),
    Rule(
        "without host",
        lambda facts: facts.row.in_cell0 or facts.instance.host is None,
        lambda facts: Report(
            Problem.NO_HOST,
            f"an instance without host, {facts.instance.vm_state}, holds resources",
            "its state does not show whether Nova will find a host for it",
        ),
    ),
    Rule(
        "its node has no compute node",
        lambda facts: facts.home is None,
        lambda facts: Report(
            Problem.NO_NODE,
            f"the instance's node {facts.instance.node} has no compute node, or several",
            NODE_GONE,
        ),
    ),
    Rule(
        "another node that it has left",
        lambda facts: facts.is_mapped and facts.strays_are_left,
        _take_strays,
    ),
    Rule(
        "another node, unexplained",
        lambda facts: True,
        lambda facts: Report(
            Problem.SEVERAL_NODES,
            f"the instance, on {facts.instance.node}, also holds resources of {facts.stray_names}",
            "no ended migration proves that the instance left that node",
        ),
    ),
)
