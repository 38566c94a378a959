"""Rules about an instance whose task or build does not end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.verdicts import Keep, Report, Wait

DELETING = "deleting"
#: tasks that nova-compute carries on, clears or ends in ERROR when it starts (``_init_instance``)
RESTARTED = frozenset(
    {
        "scheduling",
        "block_device_mapping",
        "networking",
        "spawning",
        "rebuilding",
        "rebuild_block_device_mapping",
        "rebuild_spawning",
        "image_snapshot_pending",
        "image_pending_upload",
        "image_uploading",
        "image_snapshot",
        "resize_prep",
        "resize_migrating",
        "rebooting",
        "reboot_pending",
        "reboot_started",
        "rebooting_hard",
        "reboot_pending_hard",
        "reboot_started_hard",
        "pausing",
        "unpausing",
        "powering-off",
        "powering-on",
        "migrating",
        DELETING,
    }
)


class Problem(StrEnum):
    DELETING = "deletion-without-end"
    BUILDING = "build-without-host"
    TASK = "task-without-end"


@dataclass(frozen=True, slots=True)
class Row:
    """A live row of ``instances``.

    :param changed: the raw ``updated_at``, for comparison; None if never updated
    :param age: seconds since the row last changed
    :param ending: whether ``terminated_at`` is set. Nova sets it in a live row together with ``vm_state`` ``deleted`` only
    """

    uuid: str
    project_id: str | None
    host: str | None
    vm_state: str | None
    task_state: str | None
    hidden: bool
    changed: str | None
    age: float
    node: str | None = None
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A live row of an instance, and related records.

    :param rows: number of the instance's live rows in all cells
    :param home: whether the instance's mapping names the cell of ``row``
    :param queued: whether the mapping has ``queued_for_delete``
    :param host_up: whether nova-compute on the row's host is up; None without such a service
    :param after: seconds without a change after which Nova cannot be at work
    """

    row: Row
    rows: int
    home: bool
    building: bool
    queued: bool
    host_up: bool | None
    after: float

    @property
    def begun(self) -> bool:
        """Whether stackmend stopped between the two writes of its heal: after it cleared the task, before nova-api answered."""
        row = self.row
        return (
            row.ending and self.queued and row.task_state is None and row.vm_state != "deleted" and row.host is not None
        )

    @property
    def deleting(self) -> bool:
        return self.begun or self.row.task_state == DELETING


class ByHand(Report):
    """A report to which the handler appends an SQL statement that clears the task, for an operator."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """The verdict to request the deletion again."""


Verdict = Keep | Wait | Report | Repeat


def _build(case: Case) -> Report:
    return Report(
        Problem.BUILDING,
        "is being built and has no host",
        "the conductor stopped before it chose a host. Ask the owner to delete the server: "
        f"openstack server delete {case.row.uuid}",
    )


def _deletion_without_host(case: Case) -> Report:
    return Report(
        Problem.DELETING,
        "is being deleted and has no host",
        f"no host has to remove the guest. Ask nova-api to delete the rest: openstack server delete {case.row.uuid}",
    )


def _deletion_with_host_down(case: Case) -> Report:
    return Report(
        Problem.DELETING,
        f"is being deleted, and nova-compute on {case.row.host} is down",
        f"start nova-compute on {case.row.host}: then the deletion goes on",
    )


def _deletion_without_request(case: Case) -> Report:
    return Report(
        Problem.DELETING,
        "is being deleted, but its mapping is not marked as queued for deletion",
        f"no second record proves the owner's request. Ask the owner. A restart of nova-compute on {case.row.host} deletes the "
        "instance",
    )


def _restarted_task(case: Case) -> Report:
    return Report(
        Problem.TASK,
        f"has the task {case.row.task_state}, and {case.row.host} is up",
        f"restart nova-compute on {case.row.host}: it carries the task on, clears it, or sets the instance to ERROR",
    )


def _task(case: Case) -> Report:
    return ByHand(
        Problem.TASK,
        f"has the task {case.row.task_state}, and {case.row.host} is up",
        "nova-compute does not take up this task when it starts. Find out where the guest runs. If it runs only on "
        f"{case.row.host}, and vm_state is right, run",
    )


def _task_without_host(case: Case) -> Report:
    return ByHand(
        Problem.TASK,
        f"has the task {case.row.task_state} and no host",
        "no service carries it on, and no host has a guest: run",
    )


CASES: tuple[tuple[Callable[[Case], bool], Callable[[Case], Verdict]], ...] = (
    (lambda it: it.building, lambda it: Keep("heal_instance_mappings judges instances with a build request")),
    (
        lambda it: it.rows > 1 or it.row.hidden,
        lambda it: Keep("a cross-cell resize runs, or two cells have the instance"),
    ),
    (lambda it: not it.home, lambda it: Keep("heal_instance_mappings judges the mapping")),
    (
        lambda it: (
            not it.begun and it.row.task_state is None and (it.row.vm_state != "building" or it.row.host is not None)
        ),
        lambda it: Keep("the instance is at rest"),
    ),
    (
        lambda it: not it.begun and it.row.age < it.after,
        lambda it: Wait("Nova may still be at work", it.after - it.row.age),
    ),
    (lambda it: it.deleting and it.row.host is None, _deletion_without_host),
    (lambda it: it.deleting and not it.host_up, _deletion_with_host_down),
    (lambda it: it.deleting and not it.queued, _deletion_without_request),
    (lambda it: it.deleting, lambda it: Repeat()),
    (lambda it: it.row.vm_state == "building" and it.row.host is None, _build),
    (lambda it: it.row.host is None, _task_without_host),
    (lambda it: not it.host_up, lambda it: Keep("nova-compute takes the task up when it starts")),
    (lambda it: it.row.task_state in RESTARTED and it.row.vm_state != "error", _restarted_task),
    (lambda it: True, _task),
)


def decide(case: Case) -> Verdict:
    return next(verdict(case) for holds, verdict in CASES if holds(case))
