"""The keeper: a process that outlives the test session only to clean up after it.

``atexit`` does not run when a session is killed, and PR_SET_PDEATHSIG is bound to the thread that
forked and forgotten when a program changes its user. A pipe has neither weakness: the kernel closes
it however the session ends. The keeper reads from that pipe what to watch, and at its end kills
the processes and removes the folders that are still there.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, whatever group or session they moved to."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL a session leader, its group and all that descends from it.

    PostgreSQL and Erlang move their helpers to sessions of their own: a group is not enough.
    """
    family = descendants(pid)
    for kill, target in [(os.killpg, pid), *((os.kill, child) for child in family)]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(target, signal.SIGKILL)


class Keeper:
    """The session's side of the pipe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def watch(self, pid: int) -> None:
        """Kill this process and its descendants when the session ends."""
        self._tell(f"watch {pid}")

    def forget(self, pid: int) -> None:
        """This process has ended; its number may soon be somebody else's."""
        self._tell(f"forget {pid}")

    def watch_folder(self, folder: Path) -> None:
        """Remove this folder when the session ends."""
        self._tell(f"folder {folder}")

    def keep_folder(self, folder: Path) -> None:
        """Leave this folder where it is."""
        self._tell(f"keep {folder}")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
                atexit.register(self._end)
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


keeper = Keeper()


def run(lines: IO[str]) -> None:
    """What the keeper process does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    processes: set[int] = set()
    folders: set[str] = set()
    for line in lines:
        verb, _, what = line.strip().partition(" ")
        match verb:
            case "watch":
                processes.add(int(what))
            case "forget":
                processes.discard(int(what))
            case "folder":
                folders.add(what)
            case "keep":
                folders.discard(what)
    for pid in processes:
        kill_tree(pid)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(sys.stdin)
