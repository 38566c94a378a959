"""stackmend as its user runs it: a process with a configuration file, and its commands."""

from __future__ import annotations

import configparser
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from consumer import plugins

Options = Mapping[str, Mapping[str, object]]

#: Options with which the log tells of each sweep, also of one that lists nothing.
LOGS_SWEEPS: dict[str, dict[str, object]] = {"DEFAULT": {"default_log_levels": "consumer.engine.sweeps=DEBUG"}}


def only(*names: str, group: str = "audit") -> dict[str, object]:
    """Return options that switch every handler off but these, of those whose options stand in this group."""
    handlers = [handler for handler in plugins.handlers() if handler.group == group]
    return {f"{handler.name}_mode": "off" for handler in handlers if handler.name not in names}


class Program:
    """One installation: a folder with a configuration, and at most one daemon.

    :param options: by group; the journal is an SQLite file in the folder unless they name another
    """

    def __init__(self, folder: Path, options: Options) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.conf = folder / "stackmend.conf"
        self.log = folder / "stackmend.log"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self.configure({"journal": {"connection": f"sqlite:///{folder}/journal.sqlite"}, **options})

    def configure(self, options: Options) -> None:
        """Write the configuration."""
        parser = configparser.RawConfigParser()
        parser.read_dict({group: {name: str(value) for name, value in more.items()} for group, more in options.items()})
        with self.conf.open("w") as file:
            self.conf.chmod(0o600)
            parser.write(file)

    def start(self, *arguments: str) -> None:
        """Start the daemon."""
        assert self._daemon is None
        self._output = self.log.open("ab")
        command = self._command("run", *arguments)
        self._daemon = subprocess.Popen(
            command, stdout=self._output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self._environment()
        )

    def kill(self) -> None:
        """SIGKILL, as when the machine loses power."""
        self._end(signal.SIGKILL, 10)

    def stop(self, timeout: float = 30) -> tuple[int, float]:
        """SIGTERM; return the exit code and how many seconds it took."""
        began = time.monotonic()
        code = self._end(signal.SIGTERM, timeout)
        return code, time.monotonic() - began

    def _end(self, how: signal.Signals, timeout: float) -> int:
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return 0
        daemon.send_signal(how)
        try:
            return daemon.wait(timeout)
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()
            if self._output:
                self._output.close()

    @property
    def running(self) -> bool:
        """Whether the daemon lives."""
        return self._daemon is not None and self._daemon.poll() is None

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self._daemon is not None
        return self._daemon.pid

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever it returns."""
        return subprocess.run(
            self._command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self._environment(),
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with ``-f json`` and return what it prints."""
        done = self.run(*arguments, "-f", "json")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{arguments} printed no JSON: {done.stdout}{done.stderr}") from None

    def _command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "stackmend"), "--config-file", str(self.conf), *arguments]

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("OS_")}

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
