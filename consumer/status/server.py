"""The HTTP server: ``/metrics``, ``/healthz``, ``/readyz`` and, if configured, the status page at ``/`` and ``/live``.

It accepts only GET and HEAD. There is no password, so the default address is the loopback.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from consumer.conf.status import CannotListen, StatusSettings
from consumer.status.health import Health

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = logging.getLogger(__name__)

#: Seconds for one request, from the connection to the end of the answer; and how many are served at a time.
_PATIENCE, _MOST = 10.0, 16
_HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # Only inline styles: text of events cannot load or run anything.
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
]


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    kind: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()


#: Path -> function that makes the response.
Pages = Mapping[str, Callable[[], Answer]]


def of_health(health: Health) -> Answer:
    text = "".join(f"{line}\n" for line in health.lines) or "ok\n"
    return Answer("200 OK" if health.healthy else "503 Service Unavailable", "text/plain", text)


def application(registry: CollectorRegistry, pages: Pages) -> Callable[[Any, Any], Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO") or "/"
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            found = Answer("405 Method Not Allowed", "text/plain", "only GET is allowed\n")
        elif path == "/metrics":
            served: Iterable[bytes] = metrics(environ, start_response)
            return served
        elif path in pages:
            found = _made(pages[path], path)
        else:
            known = ", ".join(["/metrics", *sorted(pages)])
            found = Answer("404 Not Found", "text/plain", f"no such page; the pages are {known}\n")
        body = found.body.encode()
        length = ("Content-Length", str(len(body)))
        start_response(
            found.status, [("Content-Type", f"{found.kind}; charset=utf-8"), length, *_HEADERS, *found.headers]
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return answer


def _made(page: Callable[[], Answer], path: str) -> Answer:
    try:
        return page()
    except Exception:
        LOG.exception("status page %s failed", path)
        return Answer("500 Internal Server Error", "text/plain", "the page failed; see the log of stackmend\n")


class _Server(ThreadingMixIn, WSGIServer):
    """Serves at most 16 clients at a time, each for at most 10 seconds."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(_MOST)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind the address. Unlike ``HTTPServer``, do not look up the host's name in DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        deadline = threading.Timer(_PATIENCE, _cut_off, [request])
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug("the status port cannot answer %s", client_address, exc_info=True)


def _cut_off(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Request(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        LOG.debug("%s %s", self.client_address[0], format % args)


class StatusServer:
    """:raises CannotListen: the address is not available"""

    def __init__(self, settings: StatusSettings, app: Callable[[Any, Any], Iterable[bytes]]) -> None:
        try:
            self._server = make_server(settings.bind, settings.port, app, _Server, _Request)
        except OSError as error:
            raise CannotListen(
                f"cannot listen on [status] bind = {settings.bind}, port = {settings.port}: {error.strerror or error}; "
                "choose another port, or 0 for none"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
