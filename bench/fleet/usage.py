"""Running a program to its end, and what that took: whole process, start included."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.keeper import keeper, kill_tree


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program took.

    :param seconds: from its start to its end
    :param cpu_s: seconds of processor time, user and system, all threads and children
    :param peak_mb: the most memory that it, or one of its children, had resident
    """

    code: int
    output: str
    complaint: str
    seconds: float
    cpu_s: float
    peak_mb: float


def run(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> Usage:
    """Run a program.

    :param folder: where it runs, and where what it says is kept
    """
    said, complained = folder / "stdout", folder / "stderr"
    with said.open("wb") as output, complained.open("wb") as complaint:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaint,
            start_new_session=True,
        )
        keeper.watch(process.pid)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            kill_tree(process.pid)
            process.wait()
            raise
        finally:
            keeper.forget(process.pid)
        seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        process.returncode,
        said.read_text(errors="replace"),
        complained.read_text(errors="replace"),
        seconds,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024,
    )
