"""One claim from start to end: look, decide, heal, record.

The order that makes a kill -9 at any line harmless: the history's line is opened and remembered in the row, then the cloud
is changed, then line and row are closed in one transaction. Killed before the change: the next look finds the drift and
goes on under the same line. Killed after it: the next look finds nothing, and closes the line as healed. So nothing is
healed twice in the history, and nothing is healed without a line.

One look heals one finding, for the heal of one may change the proof of another.

The window is asked before each heal, and by a heal of many steps between two of them. What a closed window stops stays in
its row, due at once: nobody claims it until the window opens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from consumer.conf.engine import EngineSettings
from consumer.engine import meter
from consumer.engine.announce import Announcer
from consumer.engine.holds import Holds
from consumer.engine.look import Clean, Heal, Report, Wait, after_error, decide
from consumer.engine.meter import Meter
from consumer.engine.sweeps import Sweeper
from consumer.engine.task import SWEEP, Task
from consumer.journal.database import Database, JournalUnavailable
from consumer.journal.history import Closing, Line, NotPermitted, Origin
from consumer.journal.work import (
    Claim,
    Disposition,
    Done,
    Later,
    LeaseLost,
    Parked,
    Reported,
    begin_healing,
    settle,
)
from consumer.text import reason_of
from handlers.base import Conflict, Finding, Handler, HandlerError, Healed, InFlight, Refused, Unavailable

LOG = logging.getLogger(__name__)

#: What the line of a heal says that was found done after the process that did it had died.
RESUMED = Healed("was carried out before an interruption; a new look finds nothing wrong")


class Worker:
    """Works on claims; shared by all worker threads, keeps nothing between two claims.

    :param replica: this process's name, for the history
    """

    def __init__(
        self,
        database: Database,
        tasks: Mapping[str, Task],
        settings: EngineSettings,
        replica: str,
        holds: Holds,
        announcer: Announcer,
        meter: Meter,
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._settings = settings
        self._replica = replica
        self._holds = holds
        self._announcer = announcer
        self._meter = meter
        self._sweeper = Sweeper(database, settings, replica)

    def work(self, claim: Claim) -> None:
        """Work on a claim; raises nothing. A row that cannot be given back comes free when its lease ends."""
        task = self._tasks[claim.handler]
        try:
            if claim.key.kind == SWEEP:
                self._sweep(task, claim)
            else:
                began = time.monotonic()
                outcome = self._reconcile(task, claim)
                self._meter.looked(task.name, outcome, time.monotonic() - began)
        except LeaseLost as lost:
            LOG.warning("%s", lost)
        except JournalUnavailable as outage:
            LOG.warning("%s %s: not recorded, will be looked at again: %s", claim.handler, claim.key, outage)
        except Exception:
            LOG.exception("%s %s: a fault in stackmend itself", claim.handler, claim.key)

    def _sweep(self, task: Task, claim: Claim) -> None:
        try:
            end = self._sweeper.sweep(task, claim)
        except Unavailable as error:
            LOG.warning("%s: the sweep is incomplete and will be repeated: %s", task.name, error)
            end = self._after_error(task, claim, error)
        else:
            self._back_up(task)
        settle(self._database, claim, end)

    def _reconcile(self, task: Task, claim: Claim) -> str:
        """Look at a key and do what follows; return how it ended, for the meter."""
        try:
            findings = tuple(task.handler.inspect(claim.key))
        except Exception as error:
            return self._look_failed(task, claim, error)
        self._back_up(task)
        handler, limit = task.handler, self._settings.max_attempts
        decision = decide(claim, findings, heals=task.heals, confirm_after=handler.confirm_after, max_attempts=limit)
        match decision:
            case Clean(resumed=True):
                assert claim.healing_id is not None
                LOG.info("%s %s: %s", task.name, claim.key, RESUMED.action)
                settle(self._database, claim, Done(), [Closing(claim.healing_id, "healed", RESUMED)])
                self._meter.healed(task.name, meter.source(claim.hint), "healed", _lag(claim))
                return "healed"
            case Clean():
                settle(self._database, claim, Done())
                return "clean"
            case Wait(end=end):
                settle(self._database, claim, _keep_line(end, claim), _close_if_given_up(end, claim))
                return _outcome(end)
            case Report(end=end, findings=new):
                return self._report(task, claim, end, new)
            case Heal():
                return self._heal(task, claim, decision)

    def _report(self, task: Task, claim: Claim, end: Reported, new: tuple[tuple[Finding, str], ...]) -> str:
        lines = [
            Line.of(task.name, finding, outcome, _origin(claim, self._replica), finding.refusal)
            for finding, outcome in new
        ]
        settle(self._database, claim, end, [*lines, *_close_if_given_up(end, claim)])
        for finding, outcome in new:
            LOG.info("%s %s: %s: %s", task.name, claim.key, outcome, finding.summary)
            self._announcer.finding(task.name, finding)
            self._meter.found(task.name, meter.source(claim.hint))
        return new[0][1] if new else "found"

    def _heal(self, task: Task, claim: Claim, decision: Heal) -> str:
        finding = decision.finding
        if not task.is_open:
            settle(self._database, claim, _keep_line(_until_the_window_opens(task, claim), claim))
            return "waits"
        if claim.attempts >= self._settings.max_attempts:
            claim = replace(claim, attempts=0)
        claim = replace(claim, fingerprint=decision.fingerprint)
        try:
            line_id = claim.healing_id or self._open_line(task, claim, finding)
        except NotPermitted as denied:
            LOG.warning("%s %s: held: %s", task.name, claim.key, denied)
            later = Later(denied.after, claim.attempts, fingerprint=claim.fingerprint, error=str(denied))
            settle(self._database, claim, later)
            return "waits"
        if claim.healing_id is None:
            self._meter.found(task.name, meter.source(claim.hint))
        claim = replace(claim, healing_id=line_id)
        started = time.monotonic()
        try:
            healed = task.handler.heal_while(finding, lambda: task.is_open)
        except Exception as error:
            return self._heal_failed(task, claim, finding, error)
        took = time.monotonic() - started
        LOG.info("%s %s: healed in %.3f s: %s", task.name, claim.key, took, healed.action)
        end: Disposition = Later(0.0) if decision.more or not healed.complete else Done()
        settle(self._database, claim, end, [Closing(line_id, "healed", healed)])
        self._announcer.healed(task.name, finding, healed)
        self._meter.healed(task.name, meter.source(claim.hint), "healed", _lag(claim, took))
        return "healed"

    def _open_line(self, task: Task, claim: Claim, finding: Finding) -> int:
        line = Line.of(task.name, finding, "healing", _origin(claim, self._replica))
        return begin_healing(self._database, claim, line, task.settings.heals_per_hour)

    def _look_failed(self, task: Task, claim: Claim, error: Exception) -> str:
        end = self._after_error(task, claim, error)
        _log_failure("look", task.handler, claim, error, end)
        settle(self._database, claim, _keep_line(end, claim), self._lines_of_failure(task, claim, error, end))
        return _outcome(end)

    def _heal_failed(self, task: Task, claim: Claim, finding: Finding, error: Exception) -> str:
        end = self._after_error(task, claim, error)
        _log_failure("heal", task.handler, claim, error, end)
        assert claim.healing_id is not None
        if isinstance(error, Unavailable) and isinstance(end, Later):
            # Whether the write arrived is not known: the line stays open until a look tells.
            settle(self._database, claim, replace(end, healing_id=claim.healing_id))
            return "waits"
        untouched = isinstance(error, Conflict | InFlight | Refused)
        closing = Closing(claim.healing_id, "conflict" if untouched else "failed", error=reason_of(error))
        settle(self._database, claim, end, [closing])
        self._meter.healed(task.name, meter.source(claim.hint), closing.outcome, None)
        if not untouched:
            self._announcer.failed(task.name, finding, reason_of(error))
        return "waits" if untouched else "failed"

    def _after_error(self, task: Task, claim: Claim, error: Exception) -> Disposition:
        if isinstance(error, Unavailable) and error.dependency in task.handler.requires:
            self._holds.down(task.name)
            # Due at once: the hold, not the row, says when; so all go on together when the dependency is back.
            return Later(0.0, claim.attempts, claim.waits + 1, claim.fingerprint, error=reason_of(error))
        if not isinstance(error, Unavailable):
            self._back_up(task)
        return after_error(claim, error, self._settings)

    def _back_up(self, task: Task) -> None:
        if self._holds.up(task.name):
            LOG.info("%s: goes on: what it waited for answers again", task.name)

    def _lines_of_failure(self, task: Task, claim: Claim, error: Exception, end: Disposition) -> list[Line | Closing]:
        lines: list[Line | Closing] = list(_close_if_given_up(end, claim))
        known = isinstance(end, Reported) and claim.reported == end.fingerprint
        if isinstance(end, Reported | Parked) and not known:
            outcome = "refused" if isinstance(end, Reported) else "parked"
            origin = _origin(claim, self._replica)
            lines.append(Line(task.name, claim.key, outcome, outcome, reason_of(error), origin, error=end.error))
        return lines


def _origin(claim: Claim, replica: str) -> Origin:
    return Origin(claim.hint, replica, claim.hint_id, claim.hinted_at)


def _outcome(end: Disposition) -> str:
    """Name the end of a look that healed nothing, for the meter."""
    match end:
        case Parked():
            return "parked"
        case Reported():
            return "refused"
        case Later():
            return "waits"
        case _:
            return "clean"


def _lag(claim: Claim, took: float = 0.0) -> float | None:
    """Return the seconds from the notification to now.

    :param took: seconds since the claim's clock was read, as far as they are known
    """
    return None if claim.hinted_at is None else max(0.0, claim.now - claim.hinted_at + took)


def _keep_line(end: Disposition, claim: Claim) -> Disposition:
    """Keep an interrupted heal's line open for as long as looks go on."""
    return replace(end, healing_id=claim.healing_id) if isinstance(end, Later) else end


def _until_the_window_opens(task: Task, claim: Claim) -> Later:
    reason = f"the window ({task.settings.window}) closed before it was healed"
    return Later(0.0, claim.attempts, claim.waits, claim.fingerprint, error=reason)


def _close_if_given_up(end: Disposition, claim: Claim) -> list[Closing]:
    if claim.healing_id is None or isinstance(end, Later):
        return []
    return [Closing(claim.healing_id, "failed", error="interrupted; whether it took effect could not be told")]


def _log_failure(what: str, handler: Handler, claim: Claim, error: Exception, end: Disposition) -> None:
    if isinstance(error, InFlight | Conflict):
        LOG.debug("%s %s: %s: %s", handler.name, claim.key, type(error).__name__, error)
    elif isinstance(error, HandlerError):
        LOG.info("%s %s: %s: %s", handler.name, claim.key, type(error).__name__, error)
    else:
        LOG.error("%s %s: %s failed", handler.name, claim.key, what, exc_info=error)
    if isinstance(end, Done):
        LOG.warning("%s %s: left to the next sweep, this went on for too long: %s", handler.name, claim.key, error)
    if isinstance(end, Parked):
        LOG.error("%s %s: parked after %d attempts: %s", handler.name, claim.key, end.attempts, end.error)
