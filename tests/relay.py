"""A line to a server that a test can cut after a client has sent a certain text a number of times."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Relay:
    """Forwards TCP connections on loopback; once cut it refuses them, until it is mended.

    :param port: of the server, on the same machine
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._words, self._left = b"", 0
        self.is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, words: str, times: int = 1) -> None:
        """Cut all lines when a client sends this text for the ``times``-th time; that text does not arrive."""
        with self._lock:
            self._words, self._left = words.encode(), times

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._words, self.is_cut = b"", False

    def redirect(self, port: int) -> None:
        """Lead new connections to another port; open connections stay."""
        self._target = (self._target[0], port)

    def close(self) -> None:
        """Stop."""
        self._cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                client.close()
                continue
            server = socket.create_connection(self._target)
            with self._lock:
                self._open |= {client, server}
            for source, sink, listen in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._forward, args=(source, sink, listen), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, listen: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if listen and self._heard(data):
                    self._cut()
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _heard(self, data: bytes) -> bool:
        with self._lock:
            if not self._words or self._words not in data:
                return False
            self._left -= 1
            return self._left <= 0

    def _cut(self) -> None:
        with self._lock:
            self.is_cut = True
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()
