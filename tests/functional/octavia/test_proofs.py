"""The safety page, run for Octavia: a heal follows from its records, and from no less.

Each record in the columns *Proof* and *Contradiction* has changes that remove, alter or add it. None of them lets the heal
follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest
from _pytest.mark import ParameterSet

from consumer import plugins
from handlers.base import Finding, HandlerError
from tests.functional.octavia.mending import world
from tests.functional.octavia.proofs import balancers, certificates, failover, leftovers, spares
from tests.functional.octavia.proofs.drift import Case, Drift, Scene
from tests.functional.octavia.world import House
from tests.safety import rows

DRIFTS = (*failover.DRIFTS, *balancers.DRIFTS, *certificates.DRIFTS, *leftovers.DRIFTS, *spares.DRIFTS)
HANDLERS = {handler.name for handler in plugins.handlers() if handler.__module__.startswith("handlers.octavia.")}
ROWS = [row for row in rows() if row.handler in HANDLERS]
CASES = [case for drift in DRIFTS for case in drift.cases()]
#: one change of each record; the others run in the slow lane
QUICK = {str(case) for case in {(str(case.drift), case.words): case for case in reversed(CASES)}.values()}
#: the value of a time in a row
TIMES = re.compile(r"'(?:updated_at|last_update)': (?:None|datetime\.datetime\([^)]*\))")

MakeHouse = Callable[..., House]
World = dict[str, list[str]]


def healable(drift: Drift, scene: Scene) -> list[Finding]:
    with suppress(HandlerError, ConnectionError):
        return [one for one in scene.handler.inspect(scene.key) if one.healable and one.problem == drift.problem]
    return []


def changed(make_house: MakeHouse, case: Case) -> tuple[World, Scene, list[Finding]]:
    """Make the drift and the change; return the world after it, the scene, and the findings that a heal would follow."""
    scene = case.drift.build(make_house(**case.drift.settings))
    found = healable(case.drift, scene) if case.between else []
    assert bool(found) == case.between
    case.act(scene)
    return world(scene.house), scene, found or healable(case.drift, scene)


def without_times(found: World) -> World:
    return {name: [TIMES.sub("", one) for one in ones] for name, ones in found.items()}


def test_every_record_of_the_page_has_a_change() -> None:
    written = {(row.handler, row.problem): (row.proofs, row.contradictions) for row in ROWS}
    registered = {
        (drift.handler, drift.problem): (tuple(drift.proof), tuple(drift.contradiction))
        for drift in DRIFTS
        if all(drift.proof.values()) and all(drift.contradiction.values())
    }
    assert registered == written


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_with_every_record_the_heal_follows(make_house: MakeHouse, drift: Drift) -> None:
    scene = drift.build(make_house(**drift.settings))
    assert drift.swept == (scene.key in set(scene.handler.sweep()))
    assert not drift.healed(scene)
    (finding,) = healable(drift, scene)
    scene.handler.heal(finding)
    assert drift.healed(scene)


def _slow_but_one(cases: Iterable[Case]) -> list[ParameterSet]:
    return [pytest.param(case, marks=() if str(case) in QUICK else pytest.mark.slow, id=str(case)) for case in cases]


@pytest.mark.parametrize("case", _slow_but_one(case for case in CASES if not case.gives_back))
def test_without_a_record_or_with_a_contradiction_no_heal_follows(make_house: MakeHouse, case: Case) -> None:
    before, scene, found = changed(make_house, case)
    for finding in found:
        with pytest.raises((HandlerError, ConnectionError)):
            scene.handler.heal(finding)
    assert world(scene.house) == before


@pytest.mark.parametrize("case", [case for case in CASES if case.gives_back], ids=str)
def test_a_refused_failover_gives_the_amphora_back_to_the_health_manager(make_house: MakeHouse, case: Case) -> None:
    before, scene, found = changed(make_house, case)
    for finding in found:
        with pytest.raises(HandlerError):
            scene.handler.heal(finding)
    assert found
    assert without_times(world(scene.house)) == without_times(before)
    assert scene.key.id in scene.house.health_manager_replaces()
