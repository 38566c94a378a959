from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.access.service_files import ConfigError
from handlers.base import HandlerError

#: bytes at the end of the output that a message repeats
TAIL = 2000
#: seconds between two looks at a program that has closed its output
_LOOK = 0.2
#: reads of what the program wrote last; children that it left may write for ever
_REST = 32
#: the only variables that the program gets from stackmend's own environment: none of them holds a secret
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ")


class HookFailed(HandlerError):
    """The hook did not clean a device, so the heal failed. The next attempt begins with another device of the key, if any."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The operator's program that cleans a device, run without a shell.

    :param program: an absolute path
    :param timeout: seconds after which the program and its children are killed
    """

    program: str
    timeout: float

    def require(self) -> None:
        """Raise ConfigError if stackmend cannot run the program."""
        if not os.path.isabs(self.program) or not (Path(self.program).is_file() and os.access(self.program, os.X_OK)):
            raise ConfigError(
                f"[audit] release_devices_hook: {self.program} is not the absolute path of a program that stackmend may run, "
                "such as /usr/local/bin/clean-device"
            )

    def run(self, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Run the program and wait for its end.

        :param variables: environment variables for the program, besides a few harmless ones of stackmend
        :raises HookFailed: the program does not end with status 0 in time; the message has the end of its output
        """
        if any(one.startswith("-") for one in arguments):
            raise HookFailed(f"the hook {self.program} must not get an argument that looks like an option: {arguments}")
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            process = subprocess.Popen(
                [self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**kept, **variables},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailed(f"the hook {self.program} cannot be run: {error.strerror}") from error
        with process:
            try:
                output, in_time = self._follow(process)
            finally:
                _kill(process)
        if not in_time:
            raise HookFailed(f"the hook {self.program} did not end within {self.timeout:g} s and was killed{output}")
        if process.returncode != 0:
            raise HookFailed(f"the hook {self.program} failed with status {process.returncode}{output}")

    def _follow(self, process: subprocess.Popen[bytes]) -> tuple[str, bool]:
        assert process.stdout is not None
        deadline, descriptor = time.monotonic() + self.timeout, process.stdout.fileno()
        tail, is_open = b"", True
        while not (over := _is_over(process)) and (left := deadline - time.monotonic()) > 0:
            if not is_open:
                time.sleep(min(_LOOK, left))
            elif select.select([descriptor], [], [], min(_LOOK, left))[0]:
                read = os.read(descriptor, 65536)
                tail, is_open = (tail + read)[-TAIL:], bool(read)
        for _ in range(_REST):
            if not (is_open and select.select([descriptor], [], [], 0)[0]):
                break
            read = os.read(descriptor, 65536)
            tail, is_open = (tail + read)[-TAIL:], bool(read)
        return _printable(tail), over


def _printable(tail: bytes) -> str:
    text = "".join(one if one.isprintable() else " " for one in tail.decode(errors="replace"))
    return f": {' '.join(text.split())}" if text.strip() else ""


def _is_over(process: subprocess.Popen[bytes]) -> bool:
    """Return whether the program has ended. The call does not free its process id, which :func:`_kill` still needs."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
