"""The HTTP server: ``/metrics``, ``/healthz``, ``/readyz`` and, if configured, the page at ``/``.

GET and HEAD only; no request changes anything. There is no password, so the default address is the loopback.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from consumer.conf.status import CannotListen, StatusSettings
from consumer.status.health import Health

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = logging.getLogger(__name__)

#: Seconds that a client may take to send its request.
_PATIENCE = 10.0
_HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # Only inline styles: text of events cannot load or run anything.
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: str
    kind: str
    body: str


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
        start_response(found.status, [("Content-Type", f"{found.kind}; charset=utf-8"), length, *_HEADERS])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return answer


def _made(page: Callable[[], Answer], path: str) -> Answer:
    try:
        return page()
    except Exception:
        LOG.exception("status page %s failed", path)
        return Answer("500 Internal Server Error", "text/plain", "the page failed; see the log of stackmend\n")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Request(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        LOG.debug("%s %s", self.client_address[0], format % args)


class StatusServer:
    """The server and its thread.

    :raises CannotListen: the address is not available; the message names the options
    """

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
