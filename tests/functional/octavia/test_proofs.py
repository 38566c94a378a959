"""The safety page, run for Octavia: a heal follows from its records, and from no less.

Each record in the columns *Proof* and *Contradiction* has changes that remove, alter or add it. None of them lets the heal
follow.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from handlers.base import Finding, HandlerError
from tests.functional.octavia.mending import world
from tests.functional.octavia.proofs import balancers, leftovers, spares
from tests.functional.octavia.proofs.drift import Case, Drift, Scene
from tests.functional.octavia.world import House
from tests.safety import rows

DRIFTS = (*balancers.DRIFTS, *leftovers.DRIFTS, *spares.DRIFTS)
#: the handlers whose rows are run: each row of theirs has a state. Those of failed_amphora are not run yet
HANDLERS = {drift.handler for drift in DRIFTS}
ROWS = [row for row in rows() if row.handler in HANDLERS]
CASES = [case for drift in DRIFTS for case in drift.cases()]

MakeHouse = Callable[..., House]


def healable(drift: Drift, scene: Scene) -> list[Finding]:
    with suppress(HandlerError, ConnectionError):
        return [one for one in scene.handler.inspect(scene.key) if one.healable and one.problem == drift.problem]
    return []


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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_a_record_or_with_a_contradiction_no_heal_follows(make_house: MakeHouse, case: Case) -> None:
    scene = case.drift.build(make_house(**case.drift.settings))
    found = healable(case.drift, scene) if case.between else []
    assert bool(found) == case.between
    case.act(scene)
    before = world(scene.house)
    for finding in found or healable(case.drift, scene):
        with pytest.raises((HandlerError, ConnectionError)):
            scene.handler.heal(finding)
    assert world(scene.house) == before
