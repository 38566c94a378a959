"""A private Redis server."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.servers import packages
from tests.servers.server import HOST, PASSWORD, Certificate, Process, Server, clean_environment


class Redis(Server):
    """A server that keeps its data in a file.

    :param tls: speak nothing but TLS, with this certificate
    """

    name = "redis"

    def __init__(self, folder: Path, tls: Certificate | None = None) -> None:
        super().__init__(folder)
        self._tls = tls
        self._server = packages.find("redis-server", "redis-server")

    def prepare(self) -> None:
        listener = f"port {self.port}\n"
        if self._tls is not None:
            listener = (
                f"port 0\ntls-port {self.port}\ntls-auth-clients no\ntls-cert-file {self._tls.chain}\n"
                f"tls-key-file {self._tls.key}\ntls-ca-cert-file {self._tls.authority}\n"
            )
        (self.folder / "redis.conf").write_text(
            f"bind {HOST}\n{listener}requirepass {PASSWORD}\nmasterauth {PASSWORD}\ndir {self.folder}\nappendonly yes\n"
        )

    def spawn(self) -> Process:
        return Process([self._server, self.folder / "redis.conf"], clean_environment(HOME=str(self.folder)), self.log)

    def answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as plain, self._wrapped(plain) as connection:
                connection.sendall(f"AUTH {PASSWORD}\r\nPING\r\n".encode())
                return connection.recv(32).endswith(b"+PONG\r\n")
        except OSError:
            return False

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        if self._tls is None:
            return plain
        return ssl.create_default_context(cafile=str(self._tls.authority)).wrap_socket(plain, server_hostname=HOST)


class Sentinel(Server):
    """A sentinel that watches one server, under the name ``board``."""

    name = "sentinel"

    def __init__(self, folder: Path, watched: Redis) -> None:
        super().__init__(folder)
        self._watched = watched
        self._server = packages.find("redis-server", "redis-server")

    def prepare(self) -> None:
        (self.folder / "sentinel.conf").write_text(
            f"bind {HOST}\nport {self.port}\ndir {self.folder}\n"
            f"sentinel monitor board {HOST} {self._watched.port} 1\nsentinel auth-pass board {PASSWORD}\n"
        )

    def spawn(self) -> Process:
        command: list[str | Path] = [self._server, self.folder / "sentinel.conf", "--sentinel"]
        return Process(command, clean_environment(HOME=str(self.folder)), self.log)

    def answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(32) == b"+PONG\r\n"
        except OSError:
            return False
