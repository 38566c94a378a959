"""Works on one claim from start to end: inspects the key, decides, asks the gates, heals, records.

Three steps make ``kill -9`` harmless. First the history entry is opened, with evidence and undo. Then the heal changes the
cloud. Then one transaction closes the entry and settles the row. If the process dies before the change, the next inspection
finds the drift, and the heal uses the same entry. If the process dies after the change, the next inspection finds no drift, or
another drift, and closes the entry.

Each inspection leads to at most one heal, because a heal can change the proof of another finding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from consumer.conf.engine import EngineSettings
from consumer.engine import meter, trace
from consumer.engine.announce import Announcer
from consumer.engine.decisions import Clean, Heal, Report, Wait, after_error, decide, refused_again, repeats, withheld
from consumer.engine.dependency_backoff import DependencyBackoff
from consumer.engine.gates import Request
from consumer.engine.gates.window import closed
from consumer.engine.meter import Meter
from consumer.engine.stores import Store
from consumer.engine.task import Task
from consumer.journal.history import Closing, Deferred, Line, Origin, Outcome, Presumed, Withheld
from consumer.journal.work import Claim, Disposition, Done, Later, Parked, Reported
from consumer.text import reason_of
from consumer.tracing import Step, Tracer
from handlers.base import Conflict, Finding, Handler, HandlerError, Healed, InFlight, Refused, Unavailable

LOG = logging.getLogger(__name__)

#: The change that the history records for a heal that was complete before its process died.
RESUMED = Healed("completed before an interruption; a new inspection finds nothing wrong")


class Result(StrEnum):
    CLEAN = "clean"
    FOUND = "found"
    REFUSED = "refused"
    WAITS = "waits"
    DEFERRED = "deferred"
    ASKED = "asked"
    DENIED = "denied"
    EXEMPT = "exempt"
    UNAVAILABLE = "unavailable"
    HEALED = "healed"
    FAILED = "failed"
    PARKED = "parked"


#: The result of a reconciliation whose first heal a gate withheld.
_WITHHELD = {Outcome.ASKED: Result.ASKED, Outcome.DENIED: Result.DENIED, Outcome.EXEMPT: Result.EXEMPT}


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of reconciling one claim.

    :param end: how the row was settled
    :param findings: the findings of the inspection, or only those whose heals were tried, deferred or withheld
    :param reason: why nothing was healed, or the error
    """

    result: Result
    end: Disposition
    findings: tuple[Finding, ...] = ()
    healed: Healed | None = None
    reason: str = ""


class Reconciler:
    def __init__(
        self,
        settings: EngineSettings,
        replica: str,
        *,
        backoff: DependencyBackoff | None = None,
        announcer: Announcer | None = None,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
        operator: str = "",
        selected: Callable[[Finding], bool] = lambda _finding: True,
    ) -> None:
        """:param selected: returns whether to work on a finding; other findings count as not found"""
        self._settings = settings
        self._replica = replica
        self._selected = selected
        self._operator = operator
        self._backoff = backoff or DependencyBackoff()
        self._announcer = announcer or Announcer()
        self._meter = meter or Meter()
        self._tracer = tracer or Tracer()

    def reconcile(self, task: Task, claim: Claim, store: Store, step: Callable[[], None] = lambda: None) -> Reconciled:
        """Inspect the claim's key; decide, heal and record.

        :param store: settles the claim and writes the history
        :param step: called before each step of a long heal
        :raises LeaseLost, JournalUnavailable: from the store; the claim is perhaps not settled
        """
        began = time.monotonic()
        with self._tracer.work(claim, trace.begin()) as span:
            done = self._reconcile(task, claim, store, step)
            span.ended(done.result, done.findings)
        self._meter.inspected(task.name, done.result, time.monotonic() - began)
        return done

    def _reconcile(self, task: Task, claim: Claim, store: Store, step: Callable[[], None]) -> Reconciled:
        try:
            with self._tracer.step(Step.INSPECT):
                found = filter(self._selected, _inspected(task.handler, claim))
                declared = [_if_declared(task.handler, finding) for finding in found]
                findings = tuple(replace(one, exempted=task.handler.exempting_tag(one)) for one in declared)
        except Exception as error:
            return self._inspection_failed(task, claim, store, error)
        self.answered(task)
        handler, limit = task.handler, self._settings.max_attempts
        decision = decide(
            claim, findings, mode=task.settings.mode, confirm_after=handler.confirm_after, max_attempts=limit
        )
        match decision:
            case Clean():
                return self._clean(task, claim, store)
            case Wait(end=end):
                store.settle(claim, _keep_line(end, claim), _close_if_given_up(end, claim))
                return Reconciled(Result.WAITS if isinstance(end, Later) else Result.PARKED, end, findings)
            case Report(end=end, findings=new):
                return self._report(task, claim, store, end, new, findings)
            case Heal():
                return self._heal(task, claim, store, decision, step)

    def answered(self, task: Task) -> None:
        if self._backoff.up(task.name):
            LOG.info("%s: its dependency answers again", task.name)

    def after_error(self, task: Task, claim: Claim, error: Exception) -> Disposition:
        """Return how to settle a claim whose inspection, heal or sweep raised an error.

        An outage of a required dependency begins the task's back-off; an error that is no outage ends the back-off.
        """
        if isinstance(error, Unavailable) and error.dependency in task.handler.requires:
            self._backoff.down(task.name)
            # Due at once, because the handler's back-off decides when its rows are claimed again.
            return Later(0.0, claim.attempts, claim.waits + 1, claim.fingerprint, error=reason_of(error))
        if not isinstance(error, Unavailable):
            self.answered(task)
        return after_error(claim, error, self._settings)

    def _clean(self, task: Task, claim: Claim, store: Store) -> Reconciled:
        if claim.healing_id is None:
            store.settle(claim, Done())
            return Reconciled(Result.CLEAN, Done())
        LOG.info("%s %s: %s", task.name, claim.key, RESUMED.action)
        store.settle(claim, Done(), [Presumed(claim.healing_id, Outcome.HEALED, RESUMED)])
        self._meter.healed(task.name, meter.source(claim.hint), Outcome.HEALED, _lag(claim), claim.key.weight)
        return Reconciled(Result.HEALED, Done(), healed=RESUMED)

    def _report(
        self,
        task: Task,
        claim: Claim,
        store: Store,
        end: Reported,
        new: tuple[tuple[Finding, Outcome], ...],
        findings: tuple[Finding, ...],
    ) -> Reconciled:
        lines = [(finding, *_outcome(store, finding, outcome)) for finding, outcome in new]
        self._write_findings(task, claim, store, end, lines)
        refused = bool(new) and new[0][1] is Outcome.REFUSED
        return Reconciled(Result.REFUSED if refused else Result.FOUND, end, findings)

    def _heal(self, task: Task, claim: Claim, store: Store, decision: Heal, step: Callable[[], None]) -> Reconciled:
        if claim.attempts >= self._settings.max_attempts:
            claim = replace(claim, attempts=0)
        claim = replace(claim, fingerprint=decision.fingerprint)
        answers: list[Withheld] = []
        for finding in decision.findings:
            line = Line.of(task.name, finding, Outcome.HEALING, self._origin(claim))
            with self._tracer.step(Step.GATES, finding.problem) as span:
                opened = store.open_line(Request(task, finding, claim.healing_id), claim, line)
                span.ended(_permitted(opened))
            if isinstance(opened, Deferred):
                return self._defer(task, claim, store, finding, opened)
            if isinstance(opened, int):
                approved = replace(finding, witnessed=not finding.healable)
                return self._heal_one(task, claim, store, approved, opened, decision.more, step)
            answers.append(opened)
        return self._withhold(task, claim, store, decision, answers)

    def _withhold(
        self, task: Task, claim: Claim, store: Store, decision: Heal, answers: Sequence[Withheld]
    ) -> Reconciled:
        end, is_new = withheld(claim, decision, answers)
        pairs = zip(decision.findings, answers, strict=True)
        new = [
            *((finding, answer.outcome, answer.reason) for finding, answer in pairs),
            *((finding, Outcome.REFUSED, finding.refusal) for finding in decision.others),
        ]
        self._write_findings(task, claim, store, end, new if is_new else [])
        return Reconciled(_WITHHELD[answers[0].outcome], end, decision.findings, reason=answers[0].reason)

    def _write_findings(
        self, task: Task, claim: Claim, store: Store, end: Reported, new: Sequence[tuple[Finding, Outcome, str]]
    ) -> None:
        origin = self._origin(claim)
        lines = [Line.of(task.name, finding, outcome, origin, why) for finding, outcome, why in new]
        store.settle(claim, end, [*lines, *_close_if_given_up(end, claim)])
        for finding, outcome, why in new:
            LOG.info("%s %s: %s: %s%s", task.name, claim.key, outcome, finding.summary, f" ({why})" if why else "")
            self._announcer.finding(task.name, finding)
            self._meter.found(task.name, meter.source(claim.hint), finding.weight)

    def _heal_one(
        self,
        task: Task,
        claim: Claim,
        store: Store,
        finding: Finding,
        opened: int,
        more: bool,
        step: Callable[[], None],
    ) -> Reconciled:
        obstacle = ""

        def go_on() -> bool:
            nonlocal obstacle
            step()
            if not finding.begun:
                obstacle = store.obstacle(claim, finding) if task.is_open else closed(task)
            return not obstacle

        if claim.healing_id is None:
            self._meter.found(task.name, meter.source(claim.hint), finding.weight)
        claim = replace(claim, healing_id=opened)
        started = time.monotonic()
        try:
            with self._tracer.step(Step.HEAL, finding.problem) as span:
                healed = task.handler.heal_while(finding, go_on)
                span.ended(Outcome.HEALED)
        except Exception as error:
            if obstacle and isinstance(error, Conflict):
                error = Conflict(f"{error}: {obstacle}")
            return self._heal_failed(task, claim, store, finding, opened, error)
        if obstacle and not healed.complete:
            healed = replace(healed, after={**healed.after, "stopped": obstacle})
        took = time.monotonic() - started
        LOG.info("%s %s: healed in %.3f s: %s", task.name, claim.key, took, healed.action)
        end: Disposition = Later(0.0) if more or not healed.complete else Done()
        store.settle(claim, end, [Closing(opened, Outcome.HEALED, healed)])
        self._announcer.healed(task.name, finding, healed)
        self._meter.healed(task.name, meter.source(claim.hint), Outcome.HEALED, _lag(claim, took), finding.weight)
        return Reconciled(Result.HEALED, end, (finding,), healed)

    def _defer(self, task: Task, claim: Claim, store: Store, finding: Finding, deferred: Deferred) -> Reconciled:
        level = logging.DEBUG if deferred.known or claim.error == deferred.reason else logging.WARNING
        LOG.log(level, "%s %s: the heal is deferred: %s", task.name, claim.key, deferred.reason)
        later = Later(deferred.after, claim.attempts, claim.waits, claim.fingerprint, error=deferred.reason)
        store.settle(claim, _keep_line(later, claim))
        return Reconciled(Result.DEFERRED, later, (finding,), reason=deferred.reason)

    def _inspection_failed(self, task: Task, claim: Claim, store: Store, error: Exception) -> Reconciled:
        end = _keep_line(self.after_error(task, claim, error), claim)
        _log_failure("inspection", task, claim, error, end)
        store.settle(claim, end, self._lines_of_failure(task, claim, error, end))
        return Reconciled(_result(error, end), end, reason=reason_of(error))

    def _heal_failed(
        self, task: Task, claim: Claim, store: Store, finding: Finding, line_id: int, error: Exception
    ) -> Reconciled:
        end = self.after_error(task, claim, error)
        if isinstance(end, Reported):
            end = refused_again(claim, end)
        _log_failure("heal", task, claim, error, end)
        if isinstance(error, Unavailable) and isinstance(end, Later):
            # The write may have arrived: the history entry stays open until an inspection shows whether it did.
            end = replace(end, healing_id=line_id)
            store.settle(claim, end)
            return Reconciled(Result.UNAVAILABLE, end, (finding,), reason=reason_of(error))
        outcome = _untouched(error) or Outcome.FAILED
        store.settle(claim, end, [Closing(line_id, outcome, error=reason_of(error))])
        self._meter.healed(task.name, meter.source(claim.hint), outcome, None, finding.weight)
        if outcome is Outcome.FAILED:
            self._announcer.failed(task.name, finding, reason_of(error))
        return Reconciled(_result(error, end), end, (finding,), reason=reason_of(error))

    def _origin(self, claim: Claim) -> Origin:
        return Origin(claim.hint, self._replica, claim.hint_id, claim.hinted_at, self._operator, trace.current())

    def _lines_of_failure(self, task: Task, claim: Claim, error: Exception, end: Disposition) -> list[Line | Closing]:
        lines: list[Line | Closing] = list(_close_if_given_up(end, claim))
        known = isinstance(end, Reported) and claim.reported == end.fingerprint
        if isinstance(end, Reported | Parked) and not known:
            outcome = Outcome.REFUSED if isinstance(end, Reported) else Outcome.PARKED
            origin = self._origin(claim)
            lines.append(Line(task.name, claim.key, outcome, outcome, reason_of(error), origin, error=end.error))
        return lines


def _inspected(handler: Handler, claim: Claim) -> Iterable[Finding]:
    return handler.inspect_suspect(claim.key, claim.seen_for) if claim.is_suspect else handler.inspect(claim.key)


def _if_declared(handler: Handler, finding: Finding) -> Finding:
    if finding.approvable and finding.problem not in handler.witnessed_problems:
        return replace(finding, approvable=False)
    if not finding.healable or finding.problem in handler.healable_problems:
        return finding
    return replace(finding, healable=False, refusal=f"{handler.name} does not heal the problem {finding.problem}")


def _outcome(store: Store, finding: Finding, outcome: Outcome) -> tuple[Outcome, str]:
    reason = store.exemption(finding)
    return (Outcome.EXEMPT, reason) if reason else (outcome, finding.refusal)


def _permitted(opened: int | Deferred | Withheld) -> str:
    match opened:
        case Withheld(outcome=outcome):
            return outcome
        case Deferred():
            return Result.DEFERRED
        case _:
            return "permitted"


def _untouched(error: Exception) -> Outcome | None:
    """Return the outcome of a failed heal if its error proves that the heal changed nothing; otherwise None."""
    match error:
        case Conflict() | InFlight():
            return Outcome.CONFLICT
        case Refused():
            return Outcome.REFUSED
        case _:
            return None


def _result(error: Exception, end: Disposition) -> Result:
    match error:
        case Unavailable():
            return Result.UNAVAILABLE
        case Refused():
            return Result.REFUSED
        case InFlight() | Conflict():
            return Result.WAITS
        case _:
            return Result.PARKED if isinstance(end, Parked) else Result.FAILED


def _lag(claim: Claim, took: float = 0.0) -> float | None:
    return None if claim.hinted_at is None else max(0.0, claim.now - claim.hinted_at + took)


def _keep_line(end: Disposition, claim: Claim) -> Disposition:
    return replace(end, healing_id=claim.healing_id) if isinstance(end, Later) else end


def _close_if_given_up(end: Disposition, claim: Claim) -> list[Closing]:
    if claim.healing_id is None or isinstance(end, Later):
        return []
    return [Presumed(claim.healing_id, Outcome.FAILED, error="interrupted; it is not known whether it took effect")]


def _is_known(claim: Claim, error: Exception, end: Disposition) -> bool:
    return claim.reported == end.fingerprint if isinstance(end, Reported) else repeats(claim, error)


def _log_failure(what: str, task: Task, claim: Claim, error: Exception, end: Disposition) -> None:
    if isinstance(error, InFlight | Conflict):
        LOG.debug("%s %s: %s: %s", task.name, claim.key, _result(error, end), error)
    elif isinstance(error, HandlerError):
        level = logging.DEBUG if _is_known(claim, error, end) else logging.INFO
        LOG.log(level, "%s %s: %s: %s", task.name, claim.key, _result(error, end), error)
    else:
        LOG.error("%s %s: the %s failed", task.name, claim.key, what, exc_info=error)
    if isinstance(end, Done):
        LOG.warning("%s %s: left to the next sweep, because it stays in flight: %s", task.name, claim.key, error)
    if isinstance(end, Parked):
        LOG.error("%s %s: parked after %d attempts: %s", task.name, claim.key, end.attempts, end.error)
