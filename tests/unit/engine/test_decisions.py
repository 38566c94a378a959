"""What a look means, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.conf.engine import EngineSettings
from consumer.engine.decisions import Clean, Heal, Report, Wait, after_error, decide, fingerprint, refused_again
from consumer.journal.history import Outcome
from consumer.journal.work import Claim, Done, Later, Parked, Priority, Reported
from handlers.base import Conflict, Finding, InFlight, Key, Mode, Refused, Unavailable

KEY = Key("thing", "a")
FINDING = Finding(KEY, "broken", "a is broken", {"generation": 1})
OTHER = Finding(KEY, "bent", "a is bent", {"generation": 1})
REFUSED = Finding(KEY, "odd", "a is odd", {}, healable=False, refusal="nobody knows how")
MARK = fingerprint([FINDING])
SETTINGS = EngineSettings(max_attempts=3, backoff_seconds=2, backoff_max_seconds=10)
CLAIM = Claim(
    id=1,
    token="t",
    handler="mender",
    key=KEY,
    generation=1,
    priority=Priority.EVENT,
    attempts=0,
    waits=0,
    watched=0.0,
    fingerprint=None,
    seen_at=None,
    reported=None,
    healing_id=None,
    hint="thing.broken",
    hint_id="",
    hinted_at=None,
    first_hint_at=1000.0,
    now=1000.0,
)


def look(claim: Claim = CLAIM, *findings: Finding, heals: bool = True, confirm_after: float = 0.0) -> object:
    return decide(claim, findings, mode=Mode.HEAL if heals else Mode.AUDIT, confirm_after=confirm_after, max_attempts=3)


def longest(low: float, high: float) -> float:
    return high


def test_nothing_found_is_clean() -> None:
    assert look() == Clean(resumed=False)


def test_nothing_found_after_an_interrupted_heal_ends_that_heal() -> None:
    assert look(replace(CLAIM, healing_id=7)) == Clean(resumed=True)


def test_a_finding_is_healed_at_once_where_once_is_proof() -> None:
    assert look(CLAIM, FINDING) == Heal((FINDING,), MARK)


def test_a_finding_must_be_seen_twice_unchanged() -> None:
    first = look(CLAIM, FINDING, confirm_after=5)
    assert first == Wait(Later(5, fingerprint=MARK, fresh=True, watched=5))
    seen = replace(CLAIM, fingerprint=MARK, seen_at=1000.0)
    assert look(replace(seen, now=1003.0), FINDING, confirm_after=5) == Wait(Later(2.0, fingerprint=MARK))
    assert look(replace(seen, now=1005.0), FINDING, confirm_after=5) == Heal((FINDING,), MARK)


def test_a_finding_that_changed_between_two_looks_starts_over() -> None:
    seen = replace(CLAIM, fingerprint=MARK, seen_at=900.0)
    moved = replace(FINDING, evidence={"generation": 2})
    assert look(seen, moved, confirm_after=5) == Wait(Later(5, fingerprint=fingerprint([moved]), fresh=True, watched=5))


def test_audit_reports_and_never_heals() -> None:
    assert look(CLAIM, FINDING, heals=False) == Report(Reported(MARK), ((FINDING, Outcome.FOUND),))


def test_the_same_report_is_not_written_twice() -> None:
    assert look(replace(CLAIM, reported=MARK), FINDING, heals=False) == Report(Reported(MARK), ())


def test_what_is_not_healable_is_refused_and_does_not_keep_the_rest_from_healing() -> None:
    assert look(CLAIM, REFUSED) == Report(Reported(fingerprint([REFUSED]), refused=True), ((REFUSED, Outcome.REFUSED),))
    decision = look(CLAIM, REFUSED, FINDING)
    assert isinstance(decision, Heal)
    assert decision.findings == (FINDING,)
    assert decision.others == (REFUSED,)
    assert decision.more, "the next inspection reports the one that cannot be healed"


def test_findings_take_turns() -> None:
    first, second = (look(replace(CLAIM, attempts=attempts), FINDING, OTHER) for attempts in (0, 1))
    assert isinstance(first, Heal)
    assert isinstance(second, Heal)
    assert first.findings == tuple(reversed(second.findings))
    assert first.more


def test_a_parked_finding_stays_parked_until_it_changes() -> None:
    parked = replace(CLAIM, attempts=3, fingerprint=MARK)
    decision = look(parked, FINDING)
    assert isinstance(decision, Wait)
    assert isinstance(decision.end, Parked)
    assert isinstance(look(parked, OTHER), Heal)


def test_fingerprints_ignore_order_and_wording() -> None:
    assert fingerprint([FINDING, OTHER]) == fingerprint([OTHER, replace(FINDING, summary="other words")])
    assert fingerprint([FINDING]) != fingerprint([OTHER])


def test_errors_back_off_then_park() -> None:
    bug = RuntimeError("x")
    first = after_error(CLAIM, bug, SETTINGS, longest)
    assert isinstance(first, Later)
    assert (first.after, first.attempts) == (4, 1)
    second = after_error(replace(CLAIM, attempts=1), bug, SETTINGS, longest)
    assert isinstance(second, Later)
    assert second.after == 8
    third = after_error(replace(CLAIM, attempts=2), bug, SETTINGS, longest)
    assert third == Parked("RuntimeError: x", 3)


def test_back_off_has_a_ceiling() -> None:
    end = after_error(replace(CLAIM, attempts=30), RuntimeError("x"), replace(SETTINGS, max_attempts=99), longest)
    assert isinstance(end, Later)
    assert end.after == 10


@pytest.mark.parametrize("error", [InFlight("busy", 10), Unavailable("cell:one", "no answer")])
def test_waiting_burns_no_attempt(error: Exception) -> None:
    end = after_error(replace(CLAIM, attempts=2, waits=50), error, SETTINGS, longest)
    assert isinstance(end, Later)
    assert (end.attempts, end.waits) == (2, 51)


def test_an_object_in_flight_must_be_confirmed_anew() -> None:
    end = after_error(replace(CLAIM, fingerprint=MARK, seen_at=1.0), InFlight("busy", 1), SETTINGS, longest)
    assert isinstance(end, Later)
    assert end.fingerprint is None


def test_patience_ends_and_leaves_the_rest_to_the_sweep() -> None:
    late = replace(CLAIM, watched=SETTINGS.patience_seconds + 1)
    assert after_error(late, InFlight("busy", 1), SETTINGS) == Done()


def test_patience_is_for_what_was_watched_not_for_what_waited_unseen() -> None:
    old = replace(CLAIM, now=CLAIM.first_hint_at + 10 * SETTINGS.patience_seconds)
    looks = 0
    end = after_error(old, InFlight("busy", 60), SETTINGS, longest)
    while isinstance(end, Later):
        looks += 1
        old = replace(old, waits=end.waits, watched=old.watched + end.watched)
        end = after_error(old, InFlight("busy", 60), SETTINGS, longest)
    assert looks > 5
    assert end == Done()


def test_refused_is_reported() -> None:
    assert isinstance(after_error(CLAIM, Refused("two hosts"), SETTINGS), Reported)


def test_conflicts_come_back_soon_and_park_nothing() -> None:
    end = after_error(CLAIM, Conflict("moved"), SETTINGS, longest)
    assert isinstance(end, Later)
    assert end.after <= 1
    worn = after_error(replace(CLAIM, attempts=2, waits=100), Conflict("moved"), SETTINGS, longest)
    assert isinstance(worn, Later)
    assert worn.attempts == 2
    assert worn.after == 7200


def test_a_conflict_that_repeats_for_hours_is_not_left_to_the_sweep_which_would_begin_anew() -> None:
    late = replace(CLAIM, watched=SETTINGS.patience_seconds + 1, waits=30)
    assert isinstance(after_error(late, Conflict("moved"), SETTINGS), Later)


def test_a_heal_that_is_refused_for_the_same_reason_is_tried_less_and_less() -> None:
    claim, pauses = CLAIM, []
    for _ in range(6):
        end = after_error(claim, Refused("the node is full"), SETTINGS)
        assert isinstance(end, Reported)
        end = refused_again(claim, end)
        pauses.append(end.after)
        claim = replace(claim, reported=end.fingerprint, waits=end.waits)
    assert pauses == [0, 1200, 2400, 4800, 7200, 7200]
    other = after_error(claim, Refused("another reason"), SETTINGS)
    assert isinstance(other, Reported)
    assert refused_again(claim, other).after == 0


def test_a_confirmation_keeps_the_count_of_refusals() -> None:
    decision = look(replace(CLAIM, waits=3), FINDING, confirm_after=5)
    assert isinstance(decision, Wait)
    assert isinstance(decision.end, Later)
    assert decision.end.waits == 3
