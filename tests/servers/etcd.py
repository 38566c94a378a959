"""A private etcd server."""

from __future__ import annotations

import contextlib
import http.client
from pathlib import Path

from tests.servers import packages
from tests.servers.server import HOST, Process, Server, clean_environment, free_port


class Etcd(Server):
    name = "etcd"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = packages.find("etcd", "etcd-server")
        self._peers = free_port()

    def prepare(self) -> None:
        """Do nothing: all settings are arguments."""

    def spawn(self) -> Process:
        clients, peers = f"http://{HOST}:{self.port}", f"http://{HOST}:{self._peers}"
        arguments: list[str | Path] = [self._server, "--data-dir", self.folder / "data"]
        arguments += ["--listen-client-urls", clients, "--advertise-client-urls", clients]
        arguments += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
        arguments += ["--initial-cluster", f"default={peers}"]
        return Process(arguments, clean_environment(HOME=str(self.folder)), self.log)

    def answers(self) -> bool:
        try:
            with contextlib.closing(http.client.HTTPConnection(HOST, self.port, timeout=5)) as connection:
                connection.request("GET", "/health")
                return b'"true"' in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
