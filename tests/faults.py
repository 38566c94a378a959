"""A reverse proxy on loopback that answers instead of the server behind it, when a test wants that."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.servers.server import Certificate

#: What Placement answers when somebody else wrote the consumer in between (``placement/errors.py``).
CONCURRENT_UPDATE = {
    "errors": [{"status": 409, "title": "Conflict", "code": "placement.concurrent_update", "detail": "no"}]
}


class FaultyProxy:
    """Forwards to ``target``; while ``fault`` is set, answers with it instead. While ``writing`` is not set, each PUT waits.

    :param target: ``http://127.0.0.1:port``
    :param tls: speak TLS, with this certificate
    """

    def __init__(self, target: str, tls: Certificate | None = None) -> None:
        self.fault: tuple[str, int] | None = None
        self.answered = 0
        self.writing = threading.Event()
        self.writing.set()
        #: PUTs that had to wait
        self.held = 0
        split = urlsplit(target)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if self.command == "PUT" and not proxy.writing.is_set():
                    proxy.held += 1
                    proxy.writing.wait()
                if proxy.fault and proxy.fault[0] in ("*", self.command):
                    proxy.answered += 1
                    self._answer(proxy.fault[1], json.dumps(CONCURRENT_UPDATE).encode(), {})
                    return
                connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=30)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                    connection.request(self.command, self.path, body or None, headers)
                    reply = connection.getresponse()
                    self._answer(reply.status, reply.read(), dict(reply.getheaders()))
                except OSError:
                    self.close_connection = True
                finally:
                    connection.close()

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names that the library looks for

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.chain, tls.key)
            # The handshake is the business of each connection's thread: a client that refuses must not end the listener.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
