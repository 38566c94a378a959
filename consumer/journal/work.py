"""The rows of the work table as values: hints, claims, and the ends of claims.

A hint inserts a row or increments its ``generation``. While a worker works on a row, the row has a lease (``token`` and
``lease_until``). If the generation changed before the worker settles the row, a hint arrived meanwhile, and the row stays for
another inspection. So no hint is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from consumer.journal.errors import JournalError
from handlers.base import Key

#: The kind of the keys of timers.
SWEEP = "sweep"


class LeaseLost(JournalError):
    """A claim ended, or its row was dropped, before the work ended. The result of the work is not stored."""


class State(StrEnum):
    PENDING = "pending"
    REPORTED = "reported"
    PARKED = "parked"


class Priority(IntEnum):
    """The urgency of a hint: a higher number is more urgent. A sweep must never delay an event."""

    SWEEP = 10
    #: an event that a service sends at intervals for each object, changed or not
    PERIODIC = 20
    TIMER = 50
    OPERATOR = 90
    EVENT = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of a row by which :mod:`consumer.engine.shares` decides whether a worker is free for the row."""

    handler: str
    priority: int
    is_sweep: bool


#: Returns whether a further row may be claimed, and counts it.
Admit = Callable[[Kind], bool]


@dataclass(frozen=True, slots=True)
class Hint:
    """A request to inspect a key.

    :param source: an event type, ``sweep``, ``start``, ``operator`` ...
    :param after: seconds before the first inspection
    :param source_id: the id of the notification, which was sent at ``sent_at``; or the request id of the sweep
    """

    handler: str
    key: Key
    priority: Priority
    source: str
    after: float = 0.0
    source_id: str = ""
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed row. Times are seconds since the epoch, by the journal's clock, ``hinted_at`` by the publisher's.

    :param attempts: failed inspections or heals since the last event or result
    :param waits: times in a row that the work was put off: by an object in flight, a conflict, an outage or a repeated refusal
    :param watched: seconds spent waiting for an object in flight, since the last event or result
    :param fingerprint: the fingerprint of an earlier inspection's findings, first seen at ``seen_at``
    :param reported: the fingerprint of the findings that the history already has
    :param healing_id: the open history entry of an interrupted heal
    :param first_hint_at: time of the first hint since the row was created, reported or parked
    :param error: why earlier work did not end
    :param lease: seconds until the claim ends, unless extended
    """

    id: int
    token: str
    handler: str
    key: Key
    generation: int
    priority: int
    attempts: int
    waits: int
    watched: float
    fingerprint: str | None
    seen_at: float | None
    reported: str | None
    healing_id: int | None
    hint: str
    hint_id: str
    hinted_at: float | None
    first_hint_at: float
    now: float
    error: str = ""
    lease: float = 20.0

    @property
    def is_suspect(self) -> bool:
        """Whether only a sweep, and perhaps later periodic events, requested the inspection, and no interrupted heal waits."""
        return self.hint == SWEEP and self.healing_id is None

    @property
    def seen_for(self) -> float:
        """Seconds since ``seen_at``; infinite without earlier findings."""
        return math.inf if self.fingerprint is None or self.seen_at is None else self.now - self.seen_at

    @property
    def kind(self) -> Kind:
        return Kind(self.handler, self.priority, self.key.kind == SWEEP)


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a row, as read at one moment.

    :param until: seconds since the epoch, by the clock of the database node that wrote the lease
    :param over: whether ``until`` is past by the clock of the database node that was read
    """

    id: int
    token: str
    until: float
    over: bool


@dataclass(frozen=True, slots=True)
class Done:
    """A way to settle a claim: delete the row, because no work is left."""


@dataclass(frozen=True, slots=True)
class Later:
    """A way to settle a claim: inspect the key again after ``after`` seconds.

    :param fresh: whether the fingerprint is new
    :param watched: seconds to add to the claim's ``watched``
    :param healing_id: the history entry that stays open, because its heal has perhaps written
    """

    after: float
    attempts: int = 0
    waits: int = 0
    fingerprint: str | None = None
    fresh: bool = False
    error: str = ""
    healing_id: int | None = None
    watched: float = 0.0


@dataclass(frozen=True, slots=True)
class Reported:
    """A way to settle a claim: the row becomes *reported*, because the mode, a gate or the handler forbids the heal.

    :param after: seconds for which a sweep does not make the row due
    :param waits: heals in a row that the handler refused again for the same reason
    :param refused: whether no finding is ``healable``, or the handler refused to heal
    """

    fingerprint: str
    error: str = ""
    refused: bool = False
    after: float = 0.0
    waits: int = 0


@dataclass(frozen=True, slots=True)
class Parked:
    """A way to settle a claim: the row becomes *parked*, because the work failed too often."""

    error: str
    attempts: int
    fingerprint: str | None = None


Disposition = Done | Later | Reported | Parked


#: The columns of a row that has no lease and no open heal.
FREE: Mapping[str, Any] = {"owner": None, "token": None, "lease_until": None, "healing_id": None}
