"""A Keystone that lets everybody in: as much of its API as a client needs to get a token, with the roles that a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_EVER = "2100-01-01T00:00:00.000000Z"


class Keystone:
    """Serves on a free port from ``with`` to its end.

    :param token: the token of every answer
    :param roles: the roles of every user in the project ``service``
    :param endpoints: the catalogue: service type, region and URL of each endpoint
    """

    def __init__(self, token: str, roles: Sequence[str], endpoints: Sequence[tuple[str, str, str]] = ()) -> None:
        self.token = token
        self.roles = list(roles)
        self.endpoints = tuple(endpoints)
        keystone = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = asked["auth"]["identity"]["password"]["user"]["name"]
                body = json.dumps({"token": keystone._described(name)}).encode()
                self.send_response(201)
                self.send_header("X-Subject-Token", keystone.token)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_said: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """For ``auth_url``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v3"

    def _described(self, name: str) -> dict[str, Any]:
        domain = {"id": "default", "name": "Default"}
        return {
            "methods": ["password"],
            "expires_at": _EVER,
            "issued_at": "2020-01-01T00:00:00.000000Z",
            "user": {"id": "1", "name": name, "domain": domain},
            "project": {"id": "2", "name": "service", "domain": domain},
            "roles": [{"id": role, "name": role} for role in self.roles],
            "catalog": [
                {"id": region, "type": service, "name": service, "endpoints": [_endpoint(region, url)]}
                for service, region, url in self.endpoints
            ],
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _endpoint(region: str, url: str) -> dict[str, str]:
    return {"id": region, "interface": "public", "region": region, "region_id": region, "url": url}
