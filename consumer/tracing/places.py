"""The ids of traces, derived from the journal, so that every replica finds the trace of a row, even after ``kill -9``.

The ids of an event's trace come from a digest of the notification's id, which is in the row. A row without an event of the
last day has a trace of its own, whose ids come from handler, key and the time of the first hint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from consumer.journal.database import clean
from consumer.journal.work import SWEEP, Claim

#: Seconds after which a row's inspections leave the trace of the row's event. Sweeps inspect a reported row for months, and
#: no trace may grow without end.
_DAY = 86_400.0
#: length of the column ``work.hint_id``
_ID = 64


@dataclass(frozen=True, slots=True)
class Place:
    """The ids of a span that begins a trace, as OpenTelemetry defines them: 16 and 8 bytes, not zero."""

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of a claim's span in a trace.

    :param place: the ids of the trace's first span
    :param follows: whether this first span exists, and the claim's span comes below it
    :param link: the sweep or the older event that led to the claim
    """

    place: Place
    follows: bool = False
    link: Place | None = None


def of_event(message_id: str) -> Place:
    return _derived("event", clean(message_id, _ID))


def of_sweep(request_id: str) -> Place:
    return _derived("sweep", request_id)


def of_claim(claim: Claim) -> Origin:
    row = _derived("row", claim.handler, str(claim.key), str(round(claim.first_hint_at * 1000)))
    if not claim.hint_id:
        return Origin(row)
    if claim.hint == SWEEP:
        return Origin(row, link=of_sweep(claim.hint_id))
    event = of_event(claim.hint_id)
    if claim.now - _since(claim) > _DAY:
        return Origin(row, link=event)
    return Origin(event, follows=True)


def _since(claim: Claim) -> float:
    return claim.first_hint_at if claim.hinted_at is None else claim.hinted_at


def waited(claim: Claim) -> float:
    """Return for how many seconds a claim's row waited: since the first hint, the notification or ``seen_at``, the latest."""
    begin = max(claim.first_hint_at, claim.hinted_at or 0.0, claim.seen_at or 0.0)
    return max(0.0, claim.now - begin)


def _derived(*parts: str) -> Place:
    # By a digest: UUIDs have constant bits, and samplers take a trace id's last bits for random.
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
    return Place(int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1)
