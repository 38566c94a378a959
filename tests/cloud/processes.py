"""The processes of the services: started, stopped and killed by name."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cloud.release import NEWEST, Api, Release
from tests.servers.server import HOST, Process, clean_environment, wait_for


@dataclass(frozen=True)
class Service:
    """How to start one service, and the port (if any) at which it then answers."""

    name: str
    arguments: tuple[str | Path, ...]
    environment: Mapping[str, str]
    port: int | None = None


class Processes:
    """All services of one control plane."""

    def __init__(self, bin_folder: Path, folder: Path, release: Release = NEWEST) -> None:
        self._release = release
        self._bin = bin_folder
        self._folder = folder
        self._services: dict[str, Service] = {}
        self._running: dict[str, Process] = {}
        self._closed = False
        self._lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        base = clean_environment()
        return base | {
            "PATH": f"{self._bin}:{base.get('PATH', '')}",
            "HOME": str(self._folder),
            "PYTHONWARNINGS": "ignore",
            **self._release.environment,
        }

    @property
    def names(self) -> list[str]:
        return list(self._services)

    def add(self, name: str, *arguments: str | Path, port: int | None = None, **environment: str) -> None:
        """Make a service known and start it, without waiting for it."""
        self._services[name] = Service(name, arguments, environment, port)
        self.spawn(name)

    def add_wsgi(
        self,
        name: str,
        api: Api,
        port: int,
        *options: str,
        **environment: str,
    ) -> None:
        """Make an API known and start it in uwsgi, without waiting for it."""
        self.add(
            name,
            *("uwsgi", *options, "--http-socket", f"{HOST}:{port}", "--module", api.module),
            *("--master", "--processes", str(api.processes), "--enable-threads", "--threads", str(api.threads)),
            *("--lazy-apps", "--need-app", "--die-on-term", "--buffer-size", "65535"),
            *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
            # uwsgi's plain HTTP socket does not keep connections; clients must not try.
            *("--add-header", "Connection: close"),
            port=port,
            **environment,
        )

    def spawn(self, name: str) -> None:
        """Start a known service that does not run."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the control plane is going down")
            if self.alive(name):
                return
            service = self._services[name]
            program, *rest = service.arguments
            self._running[name] = Process(
                [self._bin / program, *rest],
                self.environment | dict(service.environment),
                self._folder / "logs" / f"{name}.log",
            )

    def alive(self, name: str) -> bool:
        return name in self._running and self._running[name].alive

    def wait(self, name: str, timeout: float = 90) -> None:
        """Until an API answers; other services are only checked to be alive."""
        service, process = self._services[name], self._running[name]

        def ready() -> bool:
            if not process.alive:
                raise RuntimeError(f"{name} ended at start:\n{process.tail()}")
            return service.port is None or _answers(service.port)

        wait_for(ready, timeout, f"start of {name}")

    def stop(self, name: str) -> None:
        self._running[name].stop(timeout=10)

    def kill(self, name: str) -> None:
        self._running[name].kill()

    def pause(self, name: str) -> None:
        self._running[name].pause()

    def remove(self, name: str) -> None:
        self.kill(name)
        del self._services[name], self._running[name]

    def kill_all(self) -> None:
        """The end. Nothing can be started any more."""
        with self._lock:
            self._closed = True
            for process in self._running.values():
                process.kill()


def _answers(port: int) -> bool:
    """Any answer will do. An open port does not: uwsgi listens before it has loaded the service."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
