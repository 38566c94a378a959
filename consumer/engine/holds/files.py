from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from handlers.base import EVERYTHING, Hold

#: what a line of ``hold_file`` can hold besides everything
_SCOPES = ("host:", "cell:")


def hold_file(path: Path) -> Iterator[Hold]:
    """Yield the holds of a file; none without the file.

    A line is a scope and a reason: ``host:compute-7 memory test``. A line without the scope of a host or cell
    stops every heal; so does a file that is empty but for comments (``#``).

    :raises OSError: the file cannot be read
    """
    try:
        lines = _lines(path)
    except FileNotFoundError:
        return
    for line in lines or [""]:
        scope, _space, reason = line.partition(" ")
        if not scope.startswith(_SCOPES) or scope in _SCOPES:
            scope, reason = EVERYTHING, line.removeprefix(EVERYTHING)
        yield Hold(scope, reason.strip() or f"{path} exists")


def hosts_file(path: Path) -> Iterator[Hold]:
    """Yield a hold for each host that a file lists. A line is the name of a host; a reason may follow.

    :raises OSError: the file does not exist or cannot be read
    """
    for line in _lines(path):
        host, _space, reason = line.partition(" ")
        yield Hold(f"host:{host.removeprefix('host:')}", reason.strip() or "in maintenance")


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
