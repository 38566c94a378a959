"""What the private servers have in common: a folder, a port and one process that can be lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.keeper import keeper, kill_tree

USER = "openstack"
PASSWORD = "secret"
HOST = "127.0.0.1"

#: a locked file for each port that this process was given: others that run tests on this machine leave it alone
_given: dict[int, int] = {}
_PORTS = Path(tempfile.gettempdir()) / f"stackmend-ports-{os.getuid()}"


class DidNotStart(Exception):
    """A server ended, or did not answer in time, when it was started."""


def free_port() -> int:
    """A free TCP port that stays free while the server that owns it is not there yet, or is down.

    It is taken from below the range from which Linux gives ports to outgoing connections:
    otherwise any connection could take the port of a server that a test has stopped. A lock keeps other processes that run
    these tests at the same time from being given it, too, until this one ends.
    """
    _PORTS.mkdir(exist_ok=True)
    for _ in range(1000):
        port = random.randint(15000, 32000)
        if port in _given or not _is_free(port):
            continue
        file = os.open(_PORTS / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        _given[port] = file
        return port
    raise DidNotStart("no free port on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_for(ready: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll until ``ready`` is true."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise DidNotStart(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.05)


def clean_environment(**more: str) -> dict[str, str]:
    """The session's environment without what would lead a server to somebody else's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RABBITMQ_", "MYSQL", "MARIADB", "PG", "ERL_", "OS_"))
    }
    return kept | {"LC_ALL": "C.UTF-8"} | more


@dataclass(frozen=True)
class Certificate:
    """What a server shows.

    :param chain: file with its certificate and those up to the authority's own
    :param key: file with its private key
    :param authority: file with the authority's certificate, for clients
    """

    chain: Path
    key: Path
    authority: Path


class Process:
    """One process, in a session of its own, that does not survive the tests."""

    def __init__(self, arguments: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [str(argument) for argument in arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        keeper.watch(self.pid)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 30) -> None:
        """Ask it to end; kill what has not ended in time."""
        if self.alive:
            self._popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it and all its children, and wait."""
        kill_tree(self.pid)
        self._popen.wait()
        keeper.forget(self.pid)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers. Return when each thread has stopped."""
        os.killpg(self.pid, signal.SIGSTOP)
        wait_for(lambda: _thread_states(self.pid) <= {"T", "Z"}, 60, f"process group {self.pid} stops")

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """The end of its log, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _thread_states(group: int) -> set[str]:
    """Return the states of all threads of a process group, as ``/proc/PID/stat`` writes them."""
    states = set()
    for file in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            # The name before the last parenthesis may contain spaces.
            state, _parent, its_group, *_rest = file.read_text().rpartition(")")[2].split()
            if int(its_group) == group:
                states.add(state)
    return states


class Server(ABC):
    """A server that keeps its port and its data over ``stop``, ``kill`` and ``start``."""

    name: str
    stop_signal = signal.SIGTERM
    #: generous: several sessions may start servers at once on few cores
    start_timeout = 300.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: Process | None = None
        self._prepared = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {HOST}:{self.port} {'up' if self.running else 'down'}>"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start, and return when the server answers. A server that runs is left alone."""
        if self.running:
            return
        if not self._prepared:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.prepare()
            self._prepared = True
        process = self._process = self.spawn()
        try:
            wait_for(lambda: self._ready(process), self.start_timeout, f"start of {self.name}")
        except DidNotStart as error:
            self.kill()
            raise DidNotStart(f"{error}\n{process.tail()}") from None

    def stop(self) -> None:
        """Shut down in order."""
        if self._process is not None:
            self._process.stop(self.stop_signal)
            self._process = None

    def kill(self) -> None:
        """Lose the server without any warning, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: clients stay connected and wait."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        if self._process is not None:
            self._process.resume()

    def _ready(self, process: Process) -> bool:
        if not process.alive:
            raise DidNotStart(f"{self.name} ended at start")
        return self.answers()

    @abstractmethod
    def prepare(self) -> None:
        """Write configuration and create the empty data folder, once."""

    @abstractmethod
    def spawn(self) -> Process:
        """Start the process."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether clients are served."""


def run(arguments: Sequence[str | Path], environment: Mapping[str, str], given: str | None = None) -> str:
    """Run a server's own tool; its output, or an error that shows what it complained of."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        env=environment,
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    if done.returncode:
        complaint = done.stderr.strip() or done.stdout.strip()
        raise RuntimeError(f"{Path(arguments[0]).name} failed: {complaint}")
    return done.stdout
