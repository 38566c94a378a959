"""Finds cron jobs and systemd units of this host, and an option of nova-scheduler, that do the work of a handler."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from handlers.access.service_files import ServiceFiles
from handlers.base import Checked, Handler, Mode, Verdict
from handlers.checks.jobs import jobs

#: command of nova-manage -> the handler that does the same
REPLACED: Mapping[str, str] = {
    "cell_v2 discover_hosts": "discover_hosts",
    "cell_v2 map_instances": "map_instances",
    "db archive_deleted_rows": "archive_deleted_rows",
    "db purge": "purge",
    "placement audit": "audit_allocations",
    "placement heal_allocations": "heal_allocations",
    "placement sync_aggregates": "sync_aggregates",
}
_COMMAND = re.compile(r"\bnova-manage\b[^;|&]*?\b(" + "|".join(REPLACED).replace(" ", r"\s+") + r")\b")

#: deletes the allocations of instances in flight, and of a whole cell whose database is silent
_DANGEROUS = re.compile(r"\bplacement\s+audit\b.*--delete\b")


def check(files: ServiceFiles, modes: Mapping[type[Handler], Mode], root: Path = Path("/")) -> Iterator[Checked]:
    """Yield a warning for each job with nova-manage, and for nova-scheduler, that does the work of a handler that heals.

    Always warn of ``nova-manage placement audit --delete``. Without a warning about a job, yield OK.
    """
    healing = {handler.name for handler, mode in modes.items() if mode.heals}
    yield from _scheduler(files, healing)
    found = [one for job in jobs(_COMMAND, root) if (one := _job(job.place, job.line, healing))]
    yield from found or [Checked("cron", Verdict.OK, "no job on this host does the work of a handler that heals")]


def _scheduler(files: ServiceFiles, healing: set[str]) -> Iterator[Checked]:
    interval = files.get("scheduler", "discover_hosts_in_cells_interval") or "-1"
    if interval.isdecimal() and int(interval) > 0 and "discover_hosts" in healing:
        text = f"every {interval} s nova-scheduler does the work of discover_hosts: write there {_OFF}"
        yield Checked(f"{files}: scheduler", Verdict.WARNING, text)


_OFF = "[scheduler] discover_hosts_in_cells_interval = -1"


def _job(place: str, line: str, healing: set[str]) -> Checked | None:
    match = _COMMAND.search(line)
    if match is None:
        return None
    command = " ".join(match[1].split())
    handler = REPLACED[command]
    if _DANGEROUS.search(line):
        text = f"nova-manage {command} --delete also deletes allocations of operations in flight: remove the line"
        return Checked(f"cron: {place}", Verdict.WARNING, text)
    if handler not in healing:
        return None
    return Checked(
        f"cron: {place}", Verdict.WARNING, f"nova-manage {command} does the work of {handler}: remove the line"
    )
