"""Each row of the table about devices, by a case that only this row decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.nova.cells import Cell
from handlers.nova.devices.rules import Case, Device, Place, Problem, Release, User, decide
from handlers.nova.placement import Inventory, Provider
from handlers.nova.records import ComputeNode, Instance
from handlers.nova.verdicts import Keep, Report, Wait

ROW = Instance("i", "p", "u", "a", "a", "deleted", None, True, False, 3600.0)
LAST = User(ROW, frozenset({"r"}))
LIVE = User(replace(ROW, uuid="j", deleted=False), frozenset({"r"}))
DEVICE = Device("0000:81:00.0", "144d", "a80a", "available", None)
NODE = ComputeNode(1, "n", "a", "a", True, False, 3600.0)
PLACE = Place(Cell(2, "c", "cell1", "", "", False), NODE, DEVICE, True, (LAST,))
STOCK = Inventory("r", "CUSTOM_NVME", {"total": 1, "reserved": 1}, 7)
LEFT = Case(Provider("r", "a_0000:81:00.0", "n"), [STOCK], frozenset(), PLACE, (ROW,), False, True)


def at(**values: object) -> Case:
    return replace(LEFT, place=replace(PLACE, **values))  # type: ignore[arg-type]


def test_a_device_of_a_deleted_instance_is_released() -> None:
    assert isinstance(decide(LEFT), Release)


@pytest.mark.parametrize(
    "case",
    [
        replace(LEFT, place=None),
        replace(LEFT, inventories=[]),
        replace(LEFT, inventories=[STOCK, replace(STOCK, resource="VGPU")]),
        replace(LEFT, inventories=[replace(STOCK, values={"total": 1, "reserved": 0})]),
        replace(LEFT, inventories=[replace(STOCK, values={"total": 2, "reserved": 1})]),
        replace(LEFT, inventories=[replace(STOCK, values={"total": 0, "reserved": 0})]),
        replace(LEFT, consumers=frozenset({"i"})),
        at(device=replace(DEVICE, status="claimed")),
        at(device=replace(DEVICE, instance="i")),
        replace(LEFT, building=True),
        replace(LEFT, copies=(ROW, replace(ROW, deleted=False))),
    ],
)
def test_a_device_in_another_state_is_left_alone(case: Case) -> None:
    assert isinstance(decide(case), Keep)


def test_a_deletion_of_this_moment_waits() -> None:
    verdict = decide(at(users=(replace(LAST, row=replace(ROW, age=4.0)),)))
    assert isinstance(verdict, Wait)
    assert verdict.after == 6.0


@pytest.mark.parametrize("case", [at(users=()), at(users=(LIVE, LAST)), at(users=(LIVE,)), at(device=None)])
def test_a_reservation_that_nothing_explains_is_reported(case: Case) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Report)
    assert verdict.problem == Problem.UNEXPLAINED
    assert STOCK.command(0) in verdict.refusal


@pytest.mark.parametrize("case", [at(up=False), at(up=None), replace(LEFT, hooked=False)])
def test_without_hook_or_service_the_finding_has_the_command(case: Case) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Report)
    assert verdict.problem == Problem.LEFT
    assert STOCK.command(0) in verdict.refusal


def test_the_youngest_deletion_is_the_last_user() -> None:
    older = replace(LAST, row=replace(ROW, uuid="older"))
    assert at(users=(LAST, older)).last == LAST
