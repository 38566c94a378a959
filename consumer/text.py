"""Formats values for people: times, durations, counts, and text of unknown origin."""

from __future__ import annotations

import re
from datetime import UTC, datetime

#: User and password of each host in a URL; a password may contain an unescaped @.
_PASSWORD = re.compile(r"""((?:://|,)[^:/@\s,"'\\]*:)[^@\s]{0,300}@(?:[^@,/\s]{0,300}@)*""")


def redacted(text: str) -> str:
    """Return text with ``***`` in place of URL passwords of up to 300 characters."""
    return _PASSWORD.sub(r"\1***@", text)


def reason_of(error: BaseException) -> str:
    return redacted(str(error) or repr(error))


def one_line(text: str) -> str:
    return printable(" ".join(redacted(text).split()))


def printable(text: str, keep: str = "") -> str:
    """Return text with unprintable characters escaped, so that the text cannot control a terminal.

    :param keep: characters to leave unescaped
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def utc(clock: float | None) -> str | None:
    if clock is None:
        return None
    return datetime.fromtimestamp(clock, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def span(value: float | None) -> str:
    """Return a duration as text: ``14 s``, ``3 min``, ``2 h``, ``5 d``; None as empty text."""
    if value is None:
        return ""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
