"""The daemon with and without traces, as a process: a collector over HTTP, ``kill -9``, imports, missing packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from consumer import plugins
from consumer.bus.source import Batch, Received
from consumer.engine.inbox import Inbox
from consumer.engine.router import Router
from consumer.journal.database import Database
from consumer.tracing import places
from handlers.base import Event
from tests.functional.cli.shell import Shell, WorldMender
from tests.receiver import Receiver
from tests.silence import SilentServer

ROOT = Path(__file__).parents[3]

#: stackmend with a world of one thing; ``hang`` never ends its heal.
PROGRAM = """
import sys, time
from consumer import plugins
from tests.functional.cli.shell import WORLD, WorldMender
plugins.handlers = lambda: [WorldMender]
plugins.brokers = lambda: []
plugins.checks = lambda: []
how, *arguments = sys.argv[1:]
WORLD.things = {"a": 1}
def hang(finding):
    print("healing", flush=True)
    time.sleep(3600)
if how == "hang":
    WORLD.before_heal = hang
if how == "without":
    sys.modules["opentelemetry"] = None
from consumer.cli import main
code = main.stackmend(arguments)
print("modules", *sorted(sys.modules), flush=True)
sys.exit(code)
"""


class Daemon:
    """A daemon; it does not outlive the ``with`` block.

    :param how: an argument of the program
    """

    def __init__(self, shell: Shell, how: str) -> None:
        command = [sys.executable, "-c", PROGRAM, how, "--config-file", str(shell.conf), "run"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
        )
        assert self.process.stdout
        self.lines = self.process.stdout

    def read_until(self, text: str) -> str:
        for line in self.lines:
            if text in line:
                return line
        raise AssertionError(f"it ended before the line {text!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> set[str]:
        """Stop the daemon; return the names of its modules."""
        self.process.send_signal(signal.SIGTERM)
        modules = set(self.read_until("modules").split())
        assert self.process.wait() == 0
        return modules


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def configure(shell: Shell, endpoint: str, more: str = "") -> None:
    shell.configure(f"[tracing]\nendpoint = {endpoint}\n{more}")
    shell.conf.chmod(0o600)


def spans(collector: Receiver) -> dict[str, Span]:
    """Return the spans that the collector has, by name; the last of each name."""
    found: dict[str, Span] = {}
    for received in collector.received:
        request = ExportTraceServiceRequest.FromString(received.body)
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert names["service.name"] == "stackmend-of-cloud1"
            for scope in resource.scope_spans:
                found |= {span.name: span for span in scope.spans}
    return found


def test_the_trace_of_an_event_survives_kill_9_and_arrives_at_the_collector(
    shell: Shell, database: Database, collector: Receiver
) -> None:
    """The event is stored by another replica, and the daemon that begins its heal is killed."""
    configure(shell, collector.url, "service_name = stackmend-of-cloud1\nheaders = X-Scope-OrgID:cloud1\n")
    event = Received(Event("thing.broken", {"name": "a"}, id="m-1"), b"")
    Inbox(database, Router([WorldMender]), lambda: None, 1024).store(Batch("nova", (event,), (), 1))
    with Daemon(shell, "hang") as killed:
        killed.read_until("healing")
    with Daemon(shell, "plain") as daemon:
        daemon.read_until("healed in")
        assert "opentelemetry.sdk.trace" in daemon.stop()

    assert {received.headers["x-scope-orgid"] for received in collector.received} == {"cloud1"}
    found = spans(collector)
    place = places.of_event("m-1")
    work = found["work mender"]
    assert int.from_bytes(work.trace_id, "big") == place.trace_id
    assert int.from_bytes(work.parent_span_id, "big") == place.span_id
    for name in ("wait", "inspect", "gates", "heal"):
        assert (found[name].trace_id, found[name].parent_span_id) == (work.trace_id, work.span_id)
    assert {one.key for one in work.attributes} >= {"stackmend.request_id", "stackmend.key", "stackmend.outcome"}


@pytest.mark.usefixtures("database")
def test_without_an_endpoint_the_daemon_imports_no_package_of_opentelemetry(shell: Shell) -> None:
    shell.configure("")
    with Daemon(shell, "plain") as daemon:
        daemon.read_until("healed in")
        modules = daemon.stop()
    assert "consumer.tracing" in modules
    assert [name for name in modules if name.split(".")[0] == "opentelemetry"] == []


@pytest.mark.usefixtures("database")
def test_without_an_endpoint_the_daemon_needs_no_package_of_opentelemetry(shell: Shell) -> None:
    shell.configure("")
    with Daemon(shell, "without") as daemon:
        daemon.read_until("healed in")
        daemon.stop()


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "consumer.tracing.otel", raising=False)
    monkeypatch.delattr("consumer.tracing.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)


@pytest.mark.usefixtures("database", "without_packages")
def test_a_start_without_the_packages_names_the_option_and_the_command(shell: Shell) -> None:
    configure(shell, "http://collector:4318")
    ran = shell("run")
    assert ran.code == 1
    line = ran.err.splitlines()[-1]
    assert line.startswith("stackmend: [tracing] endpoint is set")
    assert "pip install 'stackmend[otel]'" in line


@pytest.fixture
def check(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(plugins, "brokers", list)
    monkeypatch.setattr(plugins, "checks", list)
    return shell


def traces(check: Shell) -> list[tuple[str, str]]:
    rows = check("check", "-f", "json").json
    return [(row["result"], row["details"]) for row in rows if row["check"] == "traces"]


@pytest.mark.usefixtures("without_packages")
def test_check_fails_without_the_packages(check: Shell) -> None:
    configure(check, "http://collector:4318")
    [(result, details)] = traces(check)
    assert result == "failure"
    assert "[tracing] endpoint" in details
    assert "pip install 'stackmend[otel]'" in details


def test_check_warns_of_a_collector_that_refuses(check: Shell, collector: Receiver) -> None:
    collector.answers[:] = [401]
    configure(check, collector.url)
    [(result, details)] = traces(check)
    assert result == "warning"
    assert "401" in details
    assert "t0psecret" not in details


def test_check_warns_of_a_silent_collector(check: Shell) -> None:
    silent = SilentServer()
    configure(check, f"http://127.0.0.1:{silent.port}")
    [(result, details)] = traces(check)
    silent.close()
    assert result == "warning"
    assert "does not take them" in details


def test_check_is_content_with_a_collector_that_answers(check: Shell, collector: Receiver) -> None:
    configure(check, collector.url)
    assert [result for result, _details in traces(check)] == ["ok"]
    assert len(collector.received) == 1


def test_check_says_nothing_of_traces_that_are_off(check: Shell) -> None:
    check.conf.chmod(0o600)
    assert traces(check) == []


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_is_no_url_is_an_error(shell: Shell, endpoint: str) -> None:
    configure(shell, endpoint)
    ran = shell("history")
    assert ran.code == 1
    assert "[tracing] endpoint must begin with https:// or http:// and a host" in ran.err
