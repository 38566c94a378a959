from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handlers.base import read_file

#: files and folders with jobs, below the root of a host
_CRON = (
    "etc/crontab",
    "etc/cron.d/*",
    "etc/cron.hourly/*",
    "etc/cron.daily/*",
    "etc/cron.weekly/*",
    "etc/cron.monthly/*",
    "var/spool/cron/*",
    "var/spool/cron/crontabs/*",
)
_UNITS = "etc/systemd/system/*.service"


@dataclass(frozen=True, slots=True)
class Job:
    """A line of a cron job or systemd unit.

    :param place: the file and the line's number: ``/etc/crontab:7``
    """

    place: str
    line: str


def jobs(pattern: re.Pattern[str], root: Path = Path("/")) -> Iterator[Job]:
    """Yield the lines of cron jobs and systemd units that match ``pattern``; skip comments and unreadable files."""
    for glob in (*_CRON, _UNITS):
        for file in sorted(root.glob(glob)):
            yield from _lines(file, pattern)


def _lines(file: Path, pattern: re.Pattern[str]) -> Iterator[Job]:
    try:
        text = read_file(file).decode(errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith(("#", ";")) and pattern.search(line):
            yield Job(f"{file}:{number}", line.strip())
