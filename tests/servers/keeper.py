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
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO


def family(leader: int) -> list[int]:
    """All processes of a session, and all below them, whatever session they moved to.

    PostgreSQL and Erlang move their helpers to sessions of their own; a leader that has ended leaves its children to init.
    """
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            _state, parent, _group, session = stat.rpartition(")")[2].split()[:4]
            children.setdefault(int(parent), []).append(int(entry))
            if int(session) == leader:
                found.append(int(entry))
    for member in found:
        found += [child for child in children.get(member, []) if child not in found]
    return found


def kill_tree(leader: int, timeout: float = 60) -> None:
    """SIGKILL a session's leader and its family, and wait until they have ended.

    A port is free and a file is closed only when the last process that held it has ended, which takes its time on a busy
    machine, and nobody waits for processes that were somebody else's children.

    :param timeout: seconds
    :raises TimeoutError: some of them did not end in time
    """
    handles: dict[int, int] = {}
    for pid in family(leader):
        with contextlib.suppress(ProcessLookupError):
            handles[pid] = os.pidfd_open(pid)
    # The group as well: it has whoever was forked since.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    try:
        for handle in handles.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        deadline = time.monotonic() + timeout
        for pid, handle in handles.items():
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            if not ended.poll(max(0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"process {pid} has not ended {timeout:.0f} s after it was killed")
    finally:
        for handle in handles.values():
            os.close(handle)


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
        with contextlib.suppress(TimeoutError):
            kill_tree(pid)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(sys.stdin)
