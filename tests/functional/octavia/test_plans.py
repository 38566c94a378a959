"""The plan of a finding names the writes of its heal, and its concerns name the objects that an exemption can name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from consumer.journal import exemptions
from handlers.base import Conflict, Finding
from handlers.octavia import tables
from handlers.octavia.drivers.base import Driver
from handlers.octavia.rehearsal import READS, plan
from tests.functional.octavia.mending import world
from tests.functional.octavia.proofs import balancers, certificates, failover, leftovers, spares
from tests.functional.octavia.proofs.drift import Drift, Scene
from tests.functional.octavia.world import House
from tests.sweeping import journal, swept

DRIFTS = (*failover.DRIFTS, *balancers.DRIFTS, *certificates.DRIFTS, *leftovers.DRIFTS, *spares.DRIFTS)
WRITES = {name for name, method in vars(Driver).items() if getattr(method, "__isabstractmethod__", False)}
WRITES -= READS | {"made"}
#: values that the heal chooses when it writes: times, and the ending of a spare's name
CHOSEN = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?|(?<=octavia-spare-any-)[0-9a-f]{8}")

MakeHouse = Callable[..., House]


def healable(drift: Drift, scene: Scene) -> Finding:
    (finding,) = [one for one in scene.handler.inspect(scene.key) if one.healable and one.problem == drift.problem]
    return finding


@contextmanager
def recorded(house: House) -> Iterator[list[str]]:
    """Return the list to which each call of the driver and each statement is added, but not Octavia's own statements."""
    lines: list[str] = []
    inside: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        method = getattr(house.driver, name)

        def made(*arguments: Any) -> Any:
            lines.extend(house.driver.requests(name, arguments))
            inside.append(name)
            try:
                return method(*arguments)
            finally:
                inside.pop()

        return made

    def executed(_connection: Any, clause: Any, *_more: Any) -> None:
        if not inside and isinstance(clause, sa.Insert | sa.Update | sa.Delete):
            lines.extend(house.database.plan([clause]))

    sa.event.listen(sa.Engine, "before_execute", executed)
    try:
        with ExitStack() as stack:
            for name in WRITES:
                stack.enter_context(mock.patch.object(house.driver, name, watched(name)))
            yield lines
    finally:
        sa.event.remove(sa.Engine, "before_execute", executed)


def without_chosen(lines: list[str]) -> list[str]:
    return [CHOSEN.sub("CHOSEN", line) for line in lines]


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_the_heal_makes_the_planned_writes_and_no_others(make_house: MakeHouse, drift: Drift) -> None:
    scene = drift.build(make_house(**drift.settings))
    before = world(scene.house)
    finding = healable(drift, scene)
    assert world(scene.house) == before, "a rehearsal changes nothing"
    with recorded(scene.house) as lines:
        scene.handler.heal(finding)
    assert lines
    assert without_chosen(finding.plan.splitlines()) == without_chosen(lines)
    assert drift.healed(scene)


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_an_exemption_withholds_the_heal_and_the_sweep_reports_it(
    make_house: MakeHouse, tmp_path: Path, drift: Drift
) -> None:
    """Only a recovery that has begun goes on, because an amphora must not stay cut off."""
    scene = drift.build(make_house(**drift.settings))
    finding, before = healable(drift, scene), world(scene.house)
    with journal(tmp_path) as database:
        for one in sorted(finding.concerns | {str(finding.key)}):
            kind, _, identity = one.partition(":")
            added = exemptions.add(database, f"{kind}:{identity.upper()}", None, "alice", "memory test")
            actions = [
                done.action for done in swept(scene.handler, scene.key, database) if done.problem == drift.problem
            ]
            if finding.begun:
                assert "healed" in actions
                return
            assert actions == ["exempt"]
            assert world(scene.house) == before
            exemptions.remove(database, [added])


def test_each_kind_withholds_a_heal_of_each_handler(make_house: MakeHouse) -> None:
    found: dict[str, set[str]] = {}
    for drift in DRIFTS:
        finding = healable(drift, drift.build(make_house(**drift.settings)))
        if not finding.begun:
            found.setdefault(drift.handler, set()).update(one.partition(":")[0] for one in finding.concerns)
    assert {name: {"host", "project"} <= kinds for name, kinds in found.items()} == dict.fromkeys(found, True)
    assert len(found) == 5


def test_a_rehearsal_locks_no_row_and_writes_none(house: House) -> None:
    """Octavia's health manager waits for locked rows, and in mode audit the account may not lock them."""
    statements: list[str] = []

    def heal(driver: Driver) -> None:
        driver.database.run(
            lambda connection: connection.execute(sa.select(tables.amphora.c.id).with_for_update()).all()
        )

    def executed(_connection: Any, clause: Any, *_more: Any) -> None:
        statements.append(str(clause.compile(dialect=mysql.dialect())))

    sa.event.listen(sa.Engine, "before_execute", executed)
    try:
        assert plan(house.driver, heal) == ""
    finally:
        sa.event.remove(sa.Engine, "before_execute", executed)
    assert [one.split()[0] for one in statements] == ["SELECT"]
    assert "FOR UPDATE" not in statements[0]


def test_a_call_that_a_rehearsal_does_not_know_is_not_made(house: House) -> None:
    with mock.patch.object(house.driver, "explode", create=True) as explode:
        assert plan(house.driver, lambda driver: driver.explode("all")) == "explode all"  # type: ignore[attr-defined]
    explode.assert_not_called()


def test_a_plan_says_where_it_ends_early(house: House) -> None:
    def heal(driver: Driver) -> None:
        driver.stop_server("s")
        raise Conflict("it changed")

    assert plan(house.driver, heal) == "stop_server s\n-- further writes are unknown: it changed"
