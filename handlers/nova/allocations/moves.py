"""Pure functions that prove from ended migrations on which node an instance runs.

A live migration in ``error`` proves nothing: before Nova 27, the instance's row could name the source although the guest
ran on the destination (bug 1628606).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from handlers.access.neutron import INSTANCES, Port
from handlers.nova.names import HostNames
from handlers.nova.records import Migration

#: host and node
Place = tuple[str | None, str | None]

#: statuses after which the instance lives on the destination, and the source's share is garbage
SUCCEEDED = frozenset({"confirmed", "completed", "done"})
#: statuses after which the instance lives on the source again, so that the source's share is rightly the instance's
ROLLED_BACK = frozenset({"failed", "error", "cancelled", "reverted"})
#: why stackmend does not heal if :func:`is_attested` returns False
UNATTESTED = (
    "Neutron does not bind all of its ports to its host, so that only its cell names the host. The cell may have been restored "
    "from before a move. Look for the guest on both nodes"
)


def normal_place(place: Place, names: HostNames) -> Place:
    host, node = place
    return None if host is None else names.normal(host), None if node is None else names.normal(node)


def normal(move: Migration, names: HostNames) -> Migration:
    return dataclasses.replace(move, source=normal_place(move.source, names), dest=normal_place(move.dest, names))


def bound_hosts(ports: Iterable[Port], names: HostNames) -> frozenset[str]:
    """Return the hosts to which Neutron binds an instance's ports, and ``""`` if a port that Nova owns is unbound.

    On bare metal, Ironic owns the ports. Elsewhere, an unbound port suggests a shelve offload, which unbinds the ports before
    it releases the allocation (``nova/compute/manager.py``, _shelve_offload_instance).
    """
    return frozenset(names.normal(port.host) for port in ports if port.host or port.owner.startswith(INSTANCES))


def is_attested(here: Place, bound: frozenset[str]) -> bool:
    """Return whether an instance has ports, and all of them are bound to its host (on Ironic: to its node).

    A cell that was restored from an older backup can name a former host, so the cell alone is no proof.

    Source: ``nova/virt/ironic/driver.py`` (network_binding_host_id).

    :param bound: the result of :func:`bound_hosts`
    """
    return bool(bound) and (bound == {here[0]} or bound == {here[1]})


def is_undecided(move: Migration) -> bool:
    """Return whether a live migration, or a migration of unknown type, is in ``error``: the guest can run on either node."""
    return move.kind in {None, "live-migration"} and move.status == "error"


def ends_undecided(migrations: Sequence[Migration]) -> bool:
    latest = _latest(migrations)
    return latest is not None and is_undecided(latest)


def lives_on(move: Migration) -> Place | None:
    """Return the host and node where the instance runs after a migration; None if the migration does not prove this."""
    if move.deleted or is_undecided(move):
        return None
    if move.status in SUCCEEDED:
        return move.dest
    return move.source if move.status in ROLLED_BACK else None


def has_left(move: Migration) -> Place | None:
    """Return the host and node that the instance left: the source, or after a roll-back the destination. None if unproved."""
    if lives_on(move) is None:
        return None
    return move.source if move.status in SUCCEEDED else move.dest


def left_places(migrations: Sequence[Migration], here: Place) -> frozenset[Place]:
    """Return the places (host and node) that the instance left by its ended migrations.

    The result is empty unless the last of them ended on ``here`` or stayed on one node.
    """
    if not _agrees(migrations, here):
        return frozenset()
    return frozenset(place for move in migrations if (place := has_left(move)) is not None) - {here}


def moved_between(migrations: Sequence[Migration], here: Place, other: Place) -> bool:
    """Return whether the completion or roll-back of a migration brought the instance from ``other`` to ``here``.

    Return False unless the last ended migration ended on ``here`` or stayed on one node.
    """
    return _agrees(migrations, here) and any(lives_on(move) == here and has_left(move) == other for move in migrations)


def is_owed(move: Migration, migrations: Iterable[Migration], here: Place) -> bool:
    """Return whether the resources of ``move`` belong to its instance.

    They do if ``move``, from ``here`` to another node, was rolled back or deleted before its end, and no migration succeeded
    since.
    """
    ended_there = move.status in ROLLED_BACK or (move.deleted and not move.terminal)
    return ended_there and move.source == here and not move.within_node and not is_superseded(move, migrations)


def awaits_user(vm_state: str | None, migrations: Sequence[Migration], here: Place) -> bool:
    """Return whether a migration is open, or a resize waits until the user confirms or reverts it.

    If nova-compute dies during a confirmation, the instance stays ``resized``, but nothing waits for the user.
    """
    if any(not move.deleted and not move.terminal for move in migrations):
        return True
    latest = _latest(migrations)
    confirmed = latest is not None and latest.status == "confirmed" and latest.dest == here
    return vm_state == "resized" and not confirmed


def is_superseded(move: Migration, migrations: Iterable[Migration]) -> bool:
    """Return whether another migration succeeded that is younger than ``move``, or whose row changed later.

    :param migrations: youngest first
    """
    younger = True
    for other in migrations:
        if other.uuid == move.uuid:
            younger = False
        elif other.status in SUCCEEDED and (younger or other.age < move.age):
            return True
    return False


def _agrees(migrations: Iterable[Migration], here: Place) -> bool:
    latest = _latest(migrations)
    return latest is not None and (latest.within_node or lives_on(latest) == here)


def _latest(migrations: Iterable[Migration]) -> Migration | None:
    return next((move for move in migrations if move.terminal and not move.deleted), None)
