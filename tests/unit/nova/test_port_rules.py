"""Each row of the tables about ports of instances, by a case that only this row decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.nova.ports.rules import Case, Facts, Fate, Remains, State, fate, made_by_nova, state
from handlers.nova.records import Instance

DELETED = Instance("i", "p", "u", "h", "n", "deleted", None, True, False, 3600.0)
LIVE = replace(DELETED, deleted=False, vm_state="active")
HIDDEN = replace(DELETED, hidden=True)
FRESH = replace(DELETED, age=5.0)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(True, (DELETED,), False), State.ALIVE),
        (Facts(False, (LIVE,), False), State.ALIVE),
        (Facts(False, (DELETED, LIVE), False), State.ALIVE),
        (Facts(False, (), False), State.UNKNOWN),
        (Facts(False, (HIDDEN,), False), State.UNKNOWN),
        (Facts(False, (FRESH,), False), State.JUST_DELETED),
        (Facts(False, (DELETED, FRESH), False), State.JUST_DELETED),
        (Facts(False, (DELETED,), False), State.GONE),
        (Facts(False, (DELETED, HIDDEN), False), State.GONE),
        (Facts(False, (), True), State.GONE),
    ],
)
def test_the_state_of_an_instance(facts: Facts, expected: State) -> None:
    assert state(facts) is expected


UNBIND = Case(known=True, made_by_nova=False, has_device=False, may_delete=False)


@pytest.mark.parametrize(
    ("case", "expected", "word"),
    [
        (replace(UNBIND, known=False), Fate.REPORT, "another Nova"),
        (replace(UNBIND, mapped_elsewhere=True), Fate.REPORT, "restored"),
        (replace(UNBIND, has_device=True), Fate.REPORT, "Cyborg"),
        (replace(UNBIND, made_by_nova=None), Fate.REPORT, "no record"),
        (replace(UNBIND, made_by_nova=None, may_delete=True), Fate.REPORT, "no record"),
        (UNBIND, Fate.UNBIND, ""),
        (replace(UNBIND, may_delete=True), Fate.UNBIND, ""),
        (replace(UNBIND, made_by_nova=True, may_delete=True), Fate.DELETE, ""),
        (replace(UNBIND, made_by_nova=True), Fate.REPORT, "audit_ports_delete"),
    ],
)
def test_the_fate_of_a_port(case: Case, expected: Fate, word: str) -> None:
    found, refusal = fate(case)
    assert found is expected
    assert word in refusal
    assert bool(refusal) == (expected is Fate.REPORT)


@pytest.mark.parametrize(
    ("launched", "cache", "expected"),
    [
        (True, '[{"id": "port", "preserve_on_delete": true}]', False),
        (True, '[{"id": "port", "preserve_on_delete": false}]', True),
        (True, '[{"id": "port"}]', None),
        (True, '[{"id": "another", "preserve_on_delete": true}]', None),
        (True, "[]", False),
        (False, "[]", None),
        (True, None, None),
        (True, "{", None),
    ],
)
def test_the_maker_of_a_port(launched: bool, cache: str | None, expected: bool | None) -> None:
    assert made_by_nova(Remains(launched, cache), "port") is expected
    assert made_by_nova(None, "port") is None
