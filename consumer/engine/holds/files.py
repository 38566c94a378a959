from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from handlers.base import EVERYTHING, Hold, read_file

#: what a line of ``hold_file`` can hold besides everything
_SCOPES = ("host:", "cell:")
#: in a scope, the sign of several hosts, which no hold names at once
_SEVERAL = re.compile(r"[,;*]")


def hold_file(path: Path) -> Iterator[Hold]:
    """Yield the holds of a file; none without the file.

    A line is a scope and a reason: ``host:compute-7 memory test``. A line without the scope of one host or cell stops every
    heal. A file without lines, or with comments (``#``) alone, stops every heal too.

    :raises OSError: the file cannot be read, or is not a regular file
    """
    try:
        lines = _lines(path)
    except FileNotFoundError:
        return
    for line in lines or [""]:
        scope, reason = _split(line)
        if not scope.startswith(_SCOPES) or _SEVERAL.search(scope):
            scope, reason = EVERYTHING, reason if scope == EVERYTHING else line
        yield Hold(scope, reason or f"{path} exists")


def hosts_file(path: Path) -> Iterator[Hold]:
    """Yield a hold for each host that a file lists. A line is the name of a host; a reason may follow.

    A line with several hosts in one word stops every heal.

    :raises OSError: the file does not exist, cannot be read, or is not a regular file
    """
    for line in _lines(path):
        host, reason = _split(line)
        if _SEVERAL.search(host):
            yield Hold(EVERYTHING, f"{path} has several hosts in one word: {line}")
        else:
            yield Hold(f"host:{host.removeprefix('host:')}", reason or "in maintenance")


def _split(line: str) -> tuple[str, str]:
    first, _space, rest = line.partition(" ")
    return first.rstrip(":,"), rest


def _lines(path: Path) -> list[str]:
    text = read_file(path).decode("utf-8-sig", errors="replace")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
