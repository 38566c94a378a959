"""The request id: one for each inspection, in the history and in each call of an API."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session

from consumer.engine import trace
from consumer.engine.oneshot import OneShot
from consumer.journal import history
from handlers.access import request_id
from handlers.access.cloud import Cloud
from handlers.base import Finding, Healed, Key
from tests.doubles import Mender
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually

HEADER = "X-Openstack-Request-Id"
Call = tuple[str, str]


@pytest.fixture
def calls() -> list[Call]:
    """The path and the request id of each call."""
    return []


@pytest.fixture
def cloud(calls: list[Call]) -> Iterator[Cloud]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append((self.path, self.headers.get(HEADER, "")))
            self.send_response(204)
            self.end_headers()

        do_PUT = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield Cloud(Session(auth=NoAuth(endpoint=url)), overrides={"placement": url})
    server.shutdown()
    server.server_close()


def test_calls_of_one_inspection_have_the_id_of_its_line(machine: Machine, cloud: Cloud, calls: list[Call]) -> None:
    service = cloud.service("placement")

    class Caller(Mender):
        def inspect(self, key: Key) -> Iterable[Finding]:
            service.read(f"/{key.id}", headers={"Accept": "application/json"})
            with request_id.pool(2, "ahead") as pool:
                list(pool.map(service.read, [f"/{key.id}", f"/{key.id}"]))
            return super().inspect(key)

        def heal(self, finding: Finding) -> Healed:
            service.write("PUT", f"/{finding.key.id}")
            return super().heal(finding)

    machine.handlers = lambda: [Caller(machine.world)]  # type: ignore[method-assign]
    machine.world.things = {"a": 1, "b": 1}
    machine.start()
    machine.enqueue(hint("a"), hint("b"))
    eventually(machine.idle)
    lines = {entry.key.removeprefix("thing:"): entry.request_id for entry in history.listing(machine.database)}
    assert all(re.fullmatch(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one) for one in lines.values())
    assert lines["a"] != lines["b"]
    for name in "ab":
        assert [one for path, one in calls if path == f"/{name}"] == [lines[name]] * 4


def test_each_sweep_of_a_command_has_an_id(machine: Machine, cloud: Cloud, calls: list[Call]) -> None:
    service = cloud.service("placement")

    class Lister(Mender):
        def sweep(self) -> Iterator[Key]:
            service.read("/suspects")
            return iter([])

    task = replace(machine.tasks()["mender"], handler=Lister(machine.world))
    OneShot(machine.database, machine.settings, "cli").sweep([task])
    OneShot(machine.database, machine.settings, "cli").sweep([task])
    first, second = (one for _path, one in calls)
    assert first.startswith("req-")
    assert second.startswith("req-")
    assert first != second


def test_a_call_outside_an_inspection_has_no_id(cloud: Cloud, calls: list[Call]) -> None:
    thread = threading.Thread(target=lambda: cloud.service("placement").read("/x"))
    thread.start()
    thread.join()
    assert calls == [("/x", "")]


def test_each_inspection_has_another_id() -> None:
    first = trace.begin()
    assert trace.current() == first
    assert trace.begin() != first
