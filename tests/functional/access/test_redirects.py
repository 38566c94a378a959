"""A service that redirects to another server: that server gets neither the token nor the password."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session

from handlers.access.cloud import Cloud, Service
from handlers.base import Unavailable
from tests.keystone import Keystone


class Web:
    """Answers 200, or redirects.

    :param status: the status of a redirect
    """

    def __init__(self) -> None:
        self.redirect_to = ""
        self.status = 302
        self.requests: list[tuple[str, str, str | None]] = []
        web = self

        class Answer(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                web.requests.append((self.command, self.path, self.headers.get("X-Auth-Token")))
                redirects = bool(web.redirect_to) and not self.path.startswith("/there")
                self.send_response(web.status if redirects else 200)
                if redirects:
                    self.send_header("Location", web.redirect_to)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_said: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def service_server() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


@pytest.fixture
def other_server() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


def session(auth_url: str) -> Session:
    names: dict[str, Any] = {"user_domain_name": "Default", "project_name": "p", "project_domain_name": "Default"}
    return Session(Password(auth_url, username="mender", password="m", **names))


@pytest.fixture
def service(service_server: Web) -> Iterator[Service]:
    with Keystone("token", ["admin"], [("placement", "north", service_server.url)]) as keystone:
        yield Cloud(session(keystone.url)).service("placement")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_server_gets_no_token(
    service: Service, service_server: Web, other_server: Web, status: int, method: str
) -> None:
    service_server.redirect_to, service_server.status = f"{other_server.url}/there", status
    with pytest.raises(Unavailable, match="redirects to another server"):
        service.read("/") if method == "GET" else service.write(method, "/")
    assert other_server.requests == []


def test_another_server_gets_no_password(service_server: Web, other_server: Web) -> None:
    service_server.redirect_to, service_server.status = f"{other_server.url}/there", 307
    with pytest.raises(Unavailable, match="redirects to another server"):
        Cloud(session(service_server.url)).project()
    assert other_server.requests == []


def test_a_redirect_within_the_server_is_followed(service: Service, service_server: Web) -> None:
    service_server.redirect_to = f"{service_server.url}/there/"
    assert service.read("/here").status_code == 200
    assert service_server.requests == [("GET", "/here", "token"), ("GET", "/there/", "token")]


def test_a_redirect_without_an_end_leaves_the_service_unknown(service: Service, service_server: Web) -> None:
    service_server.redirect_to = f"{service_server.url}/again"
    assert service.read("/here").status_code == 302
