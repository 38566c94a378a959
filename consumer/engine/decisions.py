"""Decides what a worker does after an inspection: heal, report, wait or nothing. No I/O."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from consumer.conf.engine import EngineSettings
from consumer.journal.history import Outcome, Withheld
from consumer.journal.work import Claim, Disposition, Done, Later, Parked, Reported
from consumer.text import reason_of
from handlers.base import Conflict, Finding, InFlight, Mode, Refused, Unavailable

#: The pause, in seconds, after two refusals for the same reason; the longest pause after refusals and conflicts. An event or
#: an operator ends the pause.
_FIRST_PAUSE, _LONGEST_PAUSE = 1200.0, 7200.0


@dataclass(frozen=True, slots=True)
class Heal:
    """A decision: heal the first of ``findings`` whose heal no gate withholds.

    If a gate defers a heal, the later findings wait too.

    :param findings: the findings that this mode heals, in the order to try
    :param fingerprint: the fingerprint of all findings of the inspection
    :param others: the findings that this mode does not heal
    """

    findings: tuple[Finding, ...]
    fingerprint: str
    others: tuple[Finding, ...] = ()

    @property
    def more(self) -> bool:
        return len(self.findings) + len(self.others) > 1


@dataclass(frozen=True, slots=True)
class Report:
    """A decision: heal nothing, and record findings in the history.

    :param end: how to settle the row
    :param findings: the findings to record, with outcomes; empty if the history has them already
    """

    end: Reported
    findings: tuple[tuple[Finding, Outcome], ...]


@dataclass(frozen=True, slots=True)
class Clean:
    """A decision: delete the row, because the inspection found no drift.

    :param resumed: whether an interrupted heal left its history entry open; then the heal counts as done
    """

    resumed: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """A decision: inspect the key again later, or park its row; write no new history entry."""

    end: Later | Parked


Decision = Heal | Report | Clean | Wait


def fingerprint(findings: Sequence[Finding]) -> str:
    facts = sorted(json.dumps([str(f.key), f.problem, f.evidence], sort_keys=True, default=str) for f in findings)
    return _digest("\n".join(facts))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()  # text of any origin can have lone surrogates


def decide(
    claim: Claim, findings: Sequence[Finding], *, mode: Mode, confirm_after: float, max_attempts: int
) -> Decision:
    """Decide what a worker does about an inspection's findings.

    :param confirm_after: seconds between two inspections that must give the same findings; 0 if one inspection is proof
    :param max_attempts: failed attempts after which a key with unchanged findings is parked
    """
    if not findings:
        return Clean(resumed=claim.healing_id is not None)
    mark = fingerprint(findings)
    same = claim.fingerprint == mark and claim.seen_at is not None
    if confirm_after > 0 and not same:
        attempts = _attempts_after_change(claim, mark)
        return Wait(Later(confirm_after, attempts, claim.waits, mark, fresh=True, watched=confirm_after))
    seen_for = claim.now - claim.seen_at if claim.seen_at is not None else 0.0
    if confirm_after > 0 and seen_for < confirm_after:
        return Wait(Later(confirm_after - seen_for, claim.attempts, claim.waits, mark))
    healable = [one for one in findings if one.healable or (one.approvable and mode is Mode.ASK)]
    if not mode.heals or not healable:
        new = [] if claim.reported == mark else [(finding, _outcome(finding)) for finding in findings]
        return Report(Reported(mark, refused=not any(finding.healable for finding in findings)), tuple(new))
    if claim.attempts >= max_attempts and claim.fingerprint == mark:
        return Wait(Parked("earlier heals of the same drift failed", claim.attempts, mark))
    # Each attempt takes the next finding, so that one that cannot be healed does not block the others.
    first = claim.attempts % len(healable)
    others = tuple(finding for finding in findings if finding not in healable)
    return Heal((*healable[first:], *healable[:first]), mark, others)


def withheld(claim: Claim, decision: Heal, answers: Sequence[Withheld]) -> tuple[Reported, bool]:
    """Return how to settle a row after gates withheld all its heals, and whether the history lacks the gates' reasons."""
    texts = sorted({f"{answer.outcome}: {answer.reason}" for answer in answers})
    both = _digest("\n".join([decision.fingerprint, *texts]))
    refused = not any(finding.healable for finding in decision.findings)
    return Reported(both, error="; ".join(texts), refused=refused), claim.reported != both


def refused_again(claim: Claim, end: Reported) -> Reported:
    """Return how to settle a row after a handler refused its heal. If this repeats, sweeps skip the row for up to 2 hours."""
    if claim.reported != end.fingerprint:
        return end
    return replace(end, after=min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**claim.waits), waits=min(claim.waits + 1, 40))


def _outcome(finding: Finding) -> Outcome:
    return Outcome.FOUND if finding.healable else Outcome.REFUSED


def _attempts_after_change(claim: Claim, mark: str) -> int:
    return claim.attempts if claim.fingerprint in (None, mark) else 0


def repeats(claim: Claim, error: Exception) -> bool:
    """Return whether the last work on the claimed row ended with the same type of error or, in an outage, dependency."""
    kind = error.dependency if isinstance(error, Unavailable) else type(error).__name__
    return claim.error.startswith(f"{kind}: ")


def after_error(
    claim: Claim, error: Exception, settings: EngineSettings, uniform: Callable[[float, float], float] = random.uniform
) -> Disposition:
    """Return how to settle a row whose inspection, heal or sweep raised an error.

    :param uniform: returns a random number between two numbers, so that retries spread
    """
    if isinstance(error, InFlight) and claim.watched > settings.patience_seconds:
        return Done()
    waits = min(claim.waits, 40)
    if isinstance(error, InFlight):
        delay = min(error.after * 1.3**waits, max(error.after, 300.0)) * uniform(0.9, 1.1)
        return Later(delay, claim.attempts, claim.waits + 1, error=reason_of(error), watched=delay)
    if isinstance(error, Conflict):
        ceiling = min(_LONGEST_PAUSE, 1.5**waits)
        return Later(uniform(ceiling / 10, ceiling), claim.attempts, claim.waits + 1, error=reason_of(error))
    if isinstance(error, Unavailable):
        delay = uniform(0.5, min(60.0, 2.0 * 1.5**waits))
        return Later(delay, claim.attempts, claim.waits + 1, claim.fingerprint, error=reason_of(error))
    if isinstance(error, Refused):
        return Reported(_digest(str(error)), reason_of(error), refused=True)
    attempts = claim.attempts + 1
    if attempts >= settings.max_attempts:
        return Parked(f"{type(error).__name__}: {reason_of(error)}", attempts, claim.fingerprint)
    ceiling = min(settings.backoff_max_seconds, settings.backoff_seconds * 2**attempts)
    return Later(
        uniform(0.1, ceiling),
        attempts,
        fingerprint=claim.fingerprint,
        error=f"{type(error).__name__}: {reason_of(error)}",
    )
