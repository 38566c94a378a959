"""Nova's API in this process: a double for tests that need no real Nova. It works on the simulated cloud.

Sources: ``nova/compute/api.py`` (_delete).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation

_ANSWERED = tuple[int, Mapping[str, Any] | None]


class Compute:
    """The API of one simulated cloud."""

    def __init__(self, cloud: NovaSimulation) -> None:
        self._cloud = cloud
        #: the status that it answers instead to requests of a method
        self.faults: dict[str, int] = {}
        #: called before a request of a method is answered, with the server's id
        self.before: dict[str, Callable[[str], object]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v2.1"

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> _ANSWERED:
        """Answer a request."""
        version, kind, *rest = path.strip("/").split("/")
        if version != "v2.1":
            return 404, None
        if method in self.before:
            self.before[method](rest[0] if rest else "")
        if method in self.faults:
            return self.faults[method], {"fault": {"message": "as the test wants it"}}
        if (method, kind) == ("DELETE", "servers"):
            return self._delete(rest[0])
        return 404, None

    def _delete(self, server: str) -> _ANSWERED:
        """Delete a server, unless the API ignores the request."""
        found = [row for row in self._cloud.live_instances() if row.uuid == server]
        if not found:
            return 404, {"itemNotFound": {"code": 404, "message": "Instance could not be found."}}
        if found[0].task_state not in {"deleting", "soft-deleting"} or not self._is_up(found[0].host):
            self._cloud.delete(server)
        return 204, None

    def _is_up(self, host: str | None) -> bool:
        services = tables.services
        rows = [
            row
            for engine in self._cloud.cells.values()
            for row in self._cloud._store.rows(engine, services, (services.c.host == host) & (services.c.deleted == 0))
        ]
        now = datetime.now(UTC).replace(tzinfo=None)
        return any(row.last_seen_up and abs((now - row.last_seen_up).total_seconds()) <= 60 for row in rows)


def _handler(compute: Compute) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = compute.answer(self.command, self.path, json.loads(content) if content else None)
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that the library looks for

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
