from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: a status with its body
Answer = tuple[int, Mapping[str, Any] | None]


class JsonServer(ABC):
    """An HTTP server of JSON on a free port; it serves until :meth:`close`."""

    def __init__(self) -> None:
        #: by HTTP method: an error status that answers each request
        self.faults: dict[str, int] = {}
        #: by HTTP method: a function that gets the object's id before each answer
        self.before: dict[str, Callable[[str], object]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @abstractmethod
    def answer(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        """Return the status and body for a request."""


def _handler(server: JsonServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = server.answer(
                self.command, self.path, dict(self.headers), json.loads(content) if content else None
            )
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names that the library looks for

        def log_message(self, format: str, *args: Any) -> None:
            """Log no request."""

    return Handler
