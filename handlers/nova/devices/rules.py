"""Rules about a one-time-use device.

Placement does not name the instance that used a reserved device, but Nova does. nova-compute writes the device's provider into
the PCI requests of the instance (``rp_uuids``), which stay in the deleted row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.cells import Cell
from handlers.nova.placement import Inventory, Provider
from handlers.nova.records import ComputeNode, Instance
from handlers.nova.verdicts import DELETED_SETTLE, Keep, Report, Wait

AVAILABLE = "available"


class Problem(StrEnum):
    LEFT = "reservation-left"
    UNEXPLAINED = "reservation-unexplained"


@dataclass(frozen=True, slots=True)
class Device:
    """A row of ``pci_devices`` that is not deleted."""

    address: str
    vendor: str
    product: str
    status: str
    instance: str | None

    @property
    def is_free(self) -> bool:
        return self.status == AVAILABLE and self.instance is None


@dataclass(frozen=True, slots=True)
class User:
    """An instance whose PCI requests name providers.

    :param row: the instance's row, live, deleted or archived
    """

    row: Instance
    providers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """The compute node of a device, and the records in its cell.

    :param up: whether the host's nova-compute is up; None without such a service
    :param users: the cell's instances whose PCI requests name the device, the youngest deletion first
    """

    cell: Cell
    node: ComputeNode
    device: Device | None
    up: bool | None
    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A one-time-use device.

    :param inventories: the inventories of the device's provider, read before ``consumers``
    :param consumers: uuids of the consumers with an allocation of the device
    :param place: the device's live compute node; None if no cell or several cells have it
    :param copies: rows, in all cells, of the deleted instance that used the device last
    :param building: whether that instance has a build request, or a mapping without a cell
    """

    provider: Provider
    inventories: Sequence[Inventory]
    consumers: frozenset[str]
    place: Place | None
    copies: tuple[Instance, ...]
    building: bool
    hooked: bool

    @property
    def inventory(self) -> Inventory | None:
        """The provider's only inventory; None if there is none or several."""
        return self.inventories[0] if len(self.inventories) == 1 else None

    @property
    def is_reserved(self) -> bool:
        return is_reserved(self.inventories)

    @property
    def device(self) -> Device | None:
        return None if self.place is None else self.place.device

    @property
    def living(self) -> User | None:
        users = () if self.place is None else self.place.users
        return next((user for user in users if not user.row.deleted), None)

    @property
    def last(self) -> User | None:
        """The instance that was deleted last of those whose PCI requests name the device; None without any."""
        users = () if self.place is None else self.place.users
        return next((user for user in users if user.row.deleted), None)

    @property
    def age(self) -> float:
        """Seconds since the row of the instance :attr:`last` changed; infinite if :attr:`last` is None."""
        return float("inf") if self.last is None else self.last.row.age

    @property
    def named(self) -> str:
        return f"device {self.provider.name} ({self.provider.uuid})"


def is_reserved(inventories: Sequence[Inventory]) -> bool:
    return len(inventories) == 1 and inventories[0].reserved == inventories[0].total > 0


@dataclass(frozen=True, slots=True)
class Release:
    """The verdict to run the hook and to end the reservation."""


Verdict = Keep | Wait | Report | Release


def _by_hand(case: Case) -> str:
    return "" if case.inventory is None else case.inventory.command(0)


def _unexplained(summary: Callable[[Case], str]) -> Callable[[Case], Report]:
    return lambda case: Report(
        Problem.UNEXPLAINED,
        f"{case.named} is reserved and without allocation, and {summary(case)}",
        "an operator may have reserved it, or an instance used it and moved away. If the device is to be used again, clean it, "
        f"then run {_by_hand(case)}",
    )


def _left(refusal: Callable[[Case], str]) -> Callable[[Case], Report]:
    return lambda case: Report(Problem.LEFT, left(case), refusal(case))


def left(case: Case) -> str:
    user = "" if case.last is None else case.last.row.uuid
    return f"{case.named} is reserved and without allocation; its last instance {user} is deleted"


CASES: tuple[tuple[Callable[[Case], bool], Callable[[Case], Verdict]], ...] = (
    (lambda it: it.place is None, lambda it: Keep("no compute node of this Nova has the device")),
    (lambda it: not it.is_reserved, lambda it: Keep("the device is not reserved")),
    (lambda it: bool(it.consumers), lambda it: Keep("the device has an allocation")),
    (
        lambda it: it.device is not None and not it.device.is_free,
        lambda it: Keep("nova-compute has not released the device"),
    ),
    (
        lambda it: it.living is not None,
        _unexplained(lambda it: f"instance {it.living.row.uuid if it.living else ''}, which lives, asked for it"),
    ),
    (lambda it: it.last is None, _unexplained(lambda it: "no deleted instance asked for it")),
    (lambda it: it.device is None, _unexplained(lambda it: "Nova's table pci_devices does not have it")),
    (
        lambda it: it.age < DELETED_SETTLE,
        lambda it: Wait("the instance was deleted just now", DELETED_SETTLE - it.age),
    ),
    (lambda it: it.building, lambda it: Keep("Nova schedules the instance")),
    (lambda it: any(not copy.deleted for copy in it.copies), lambda it: Keep("another cell has the live instance")),
    (
        lambda it: it.place is not None and not it.place.up,
        _left(
            lambda it: (
                "its nova-compute is down, so that its record of the device may be old: start nova-compute. If you know that "
                f"the device is clean, run {_by_hand(it)}"
            )
        ),
    ),
    (
        lambda it: not it.hooked,
        _left(
            lambda it: (
                f"no hook proves that the device is clean. Clean it, then run {_by_hand(it)}. Or set [audit] "
                "release_devices_hook to a program that cleans devices"
            )
        ),
    ),
    (lambda it: True, lambda it: Release()),
)


def decide(case: Case) -> Verdict:
    return next(verdict(case) for holds, verdict in CASES if holds(case))
