"""The safety page, run: every heal follows from its records, and from no less.

Each row of the page has a registered state in :mod:`tests.functional.nova.proofs`. Each record in the columns *Proof* and
*Contradiction* has changes that remove, alter or add it. None of them lets the heal follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import pytest
from _pytest.mark import ParameterSet

from consumer import plugins
from handlers.base import Finding, Handler, HandlerError, Healed
from tests.functional.nova.proofs import (
    allocations,
    archive,
    attachments,
    bindings,
    devices,
    hosts,
    info_cache,
    instances,
    mappings,
    migrations,
    ports,
)
from tests.functional.nova.proofs.changes import SILENCE, another_placement
from tests.functional.nova.proofs.drift import Built, Case, Change, Drift, Moment
from tests.functional.nova.proofs.stage import Scene, Stage
from tests.functional.nova.proofs.theatre import Theatre
from tests.safety import Row, rows

NOVA = {handler.name for handler in plugins.handlers() if handler.__module__.startswith("handlers.nova.")}
ROWS = [row for row in rows() if row.handler in NOVA]
DRIFTS = (
    *hosts.DRIFTS,
    *mappings.DRIFTS,
    *allocations.DRIFTS,
    *ports.DRIFTS,
    *migrations.DRIFTS,
    *bindings.DRIFTS,
    *devices.DRIFTS,
    *attachments.DRIFTS,
    *instances.DRIFTS,
    *info_cache.DRIFTS,
    *archive.DRIFTS,
)
CASES = [case for drift in DRIFTS for case in drift.cases()]
#: one change of each record; the others run in the slow lane
QUICK = {str(case) for case in {(str(case.drift), case.words): case for case in reversed(CASES)}.values()}
BATCHES = [case for case in CASES if case.drift.one is not None and case.change.alone]
#: the words of a row whose subjects are those of another row
SAME = re.compile(r"for each (?:instance|mapping) the same(?: as ``([a-z0-9-]+)``)?|such an? \w+ is left out")
#: columns that every write changes
TIMES = {"placement.resource_providers", "placement.consumers", "placement.projects", "placement.users"}


@pytest.fixture(scope="module")
def theatre(stage: Stage) -> Theatre:
    return Theatre(stage)


def healable(handler: Handler, built: Built) -> list[Finding]:
    """Return the findings of the drift's problem that the handler would heal."""
    with suppress(HandlerError):
        return [one for one in handler.inspect(built.key) if one.healable and one.problem == built.drift.problem]
    return []


def heal(handler: Handler, findings: list[Finding]) -> list[Healed]:
    """Heal what can be healed."""
    done: list[Healed] = []
    for finding in findings:
        with suppress(HandlerError):
            done.append(handler.heal(finding))
    return done


def play(theatre: Theatre, case: Case, subjects: Sequence[str]) -> tuple[list[Healed], Scene, Scene]:
    """Change records, let the handler do its work, and return its heals and the states before and after."""
    built, stage = theatre.perform(case.drift), theatre.stage
    found: list[Finding] = []
    if case.moment is Moment.BETWEEN:
        with stage.handler(case.drift.handler) as handler:
            found = healable(handler, built)
            assert found, "without the change the heal follows"
    for subject in subjects or built.subjects:
        case.change.act(stage, subject)
    before = stage.scene()
    with stage.handler(case.drift.handler) as handler:
        healed = heal(handler, found or healable(handler, built))
    return healed, before, stage.scene()


def test_every_record_of_the_page_has_a_change() -> None:
    missing = [
        (row.handler, row.problem, words)
        for row in ROWS
        for column in ("proof", "contradiction")
        for words in getattr(row, f"{column}s")
        if not any(_covers(drift, column, words) for drift in _of(row))
    ]
    assert not missing


def test_every_change_is_about_a_record_of_the_page() -> None:
    written = {(row.handler, row.problem): row for row in ROWS}
    unknown = [
        (str(drift), words)
        for drift in DRIFTS
        for column in ("proof", "contradiction")
        for words in getattr(drift, column)
        if words not in getattr(written[drift.handler.name, drift.problem], f"{column}s")
    ]
    assert not unknown


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_with_every_record_the_heal_follows(theatre: Theatre, drift: Drift) -> None:
    built, stage = theatre.perform(drift), theatre.stage
    assert not any(drift.healed(stage, subject) for subject in built.subjects)
    with stage.handler(drift.handler) as handler:
        if drift.swept:
            assert built.key in set(handler.sweep())
        [finding] = healable(handler, built)
        assert finding.weight == len(built.subjects)
        handler.heal(finding)
        assert not healable(handler, built)
    assert all(drift.healed(stage, subject) for subject in built.subjects)
    assert stage.scene().differing(built.scene) - TIMES == drift.changed


def _slow_but_one(cases: Sequence[Case]) -> list[ParameterSet]:
    return [pytest.param(case, marks=() if str(case) in QUICK else pytest.mark.slow, id=str(case)) for case in cases]


@pytest.mark.parametrize("case", _slow_but_one(CASES))
def test_without_a_record_or_with_a_contradiction_no_heal_follows(theatre: Theatre, case: Case) -> None:
    healed, before, after = play(theatre, case, [])
    touched = after.differing(before)
    if case.change.spares:
        touched = {name for name in touched if name.startswith(case.change.spares)}
    assert not touched
    assert case.change.spares or not healed


@pytest.mark.parametrize(
    ("drift", "silent"),
    [(drift, silent) for drift in DRIFTS for silent in drift.needs if silent in {"cell2", *drift.handler.requires}],
    ids=str,
)
@pytest.mark.parametrize("moment", Moment)
def test_a_database_or_an_api_that_does_not_answer_stops_the_heal(
    theatre: Theatre, drift: Drift, silent: str, moment: Moment
) -> None:
    case = Case(drift, "an answer", silent, Change(SILENCE[silent], alone=False), moment)
    healed, before, after = play(theatre, case, theatre.perform(drift).subjects[:1])
    assert not healed
    assert not after.differing(before)


@pytest.mark.parametrize(
    "drift", [drift for drift in DRIFTS if "placement" in {*drift.needs} & {*drift.handler.requires}], ids=str
)
@pytest.mark.parametrize("moment", Moment)
def test_the_placement_of_another_region_lets_no_heal_follow(theatre: Theatre, drift: Drift, moment: Moment) -> None:
    case = Case(drift, "our Placement", "another region's", Change(another_placement, alone=False), moment)
    healed, before, after = play(theatre, case, theatre.perform(drift).subjects[:1])
    assert not healed
    assert not after.differing(before)


@pytest.mark.parametrize("case", _slow_but_one(BATCHES))
def test_a_batch_leaves_out_the_subject_whose_record_is_missing(theatre: Theatre, case: Case) -> None:
    first, *others = theatre.perform(case.drift).subjects
    play(theatre, case, [first])
    assert not case.drift.healed(theatre.stage, first)
    assert all(case.drift.healed(theatre.stage, subject) for subject in others)


def _of(row: Row) -> list[Drift]:
    return [drift for drift in DRIFTS if (drift.handler.name, drift.problem) == (row.handler, row.problem)]


def _covers(drift: Drift, column: str, words: str) -> bool:
    same = SAME.fullmatch(words)
    if same and drift.one is not None:
        return same[1] in {None, drift.one.problem}
    return bool(getattr(drift, column).get(words))
