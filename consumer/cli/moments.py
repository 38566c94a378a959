from __future__ import annotations

import re
from datetime import UTC, datetime

from consumer.cli.errors import CommandError

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(s|m|min|h|d|w)")


def read_since(text: str, clock: float, option: str = "--since") -> float:
    """Parse a time: a span before ``clock`` such as ``15m``, ``2h`` or ``3d``, or a date with optional time, by default UTC.

    :param clock: the present time; like the result, in seconds since the epoch
    :raises CommandError: the text is no time
    """
    span = _seconds(text)
    return _within_calendar(_moment(text, option) if span is None else clock - span, text, option)


def read_until(text: str, clock: float, option: str = "--until") -> float:
    """Parse a future time: a time span after ``clock``, or a date. Arguments and result are those of :func:`read_since`.

    :raises CommandError: the text is no future time
    """
    span = _seconds(text)
    moment = _within_calendar(_moment(text, option) if span is None else clock + span, text, option)
    if moment <= clock:
        raise CommandError(f"{option} {text!r} is past")
    return moment


def _within_calendar(moment: float, text: str, option: str) -> float:
    try:
        datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError):
        raise CommandError(f"{option} {text!r} is outside the years 1 to 9999") from None
    return moment


def _seconds(text: str) -> float | None:
    found = _SPAN.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


def _moment(text: str, option: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option} {text!r} is not a time; write a time span (90s, 15m, 2h, 3d, 1w) or a UTC time (2026-11-22T10:00)"
        ) from None
