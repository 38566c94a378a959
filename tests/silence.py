"""A server that accepts connections and never answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class SilentServer:
    """Listens on loopback; counts connections and keeps them open."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self._open)

    def close(self) -> None:
        for connection in [self._listener, *self._open]:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._open.append(self._listener.accept()[0])
