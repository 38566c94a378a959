"""Metrics, probes and page of a daemon that heals a world of things, read over HTTP."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.bus.intake import Backlog
from consumer.conf.status import CannotListen, StatusSettings
from consumer.engine.holds import Board, Source
from consumer.journal import deliveries, hinting, history, work
from consumer.journal.errors import JournalUnavailable
from consumer.journal.history import Outcome
from consumer.status import cached, server
from consumer.status.health import SILENT, Beats, alive, ready
from consumer.status.inventories import Inventories
from consumer.status.page import Page
from consumer.status.serving import Status
from handlers.base import Broker, Finding, Hold, Key, Unavailable
from tests.functional.cli.test_cli_inventory import SHELF, Shelf
from tests.functional.engine.conftest import journal, machine, world
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually

__all__ = ["journal", "machine", "world"]


@dataclass
class Listener:
    """A source's state."""

    broker: Broker = field(default_factory=lambda: Broker("nova", "rabbit://u:secret@host/", ("nova",)))
    connected: bool = True
    problem: str = ""
    queues: tuple[str, ...] = ("stackmend.info",)
    missing: tuple[str, ...] = ()
    last_message_at: datetime | None = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    received: int = 10
    wanted: int = 3
    dead: int = 1
    backlog: Backlog | None = None
    turned_at: float = 0.0


@dataclass
class Daemon:
    """A machine with its status served."""

    machine: Machine
    listeners: list[Listener]
    port: int

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def samples(self) -> dict[str, float]:
        """Return values by name and labels, these in the order of their names."""
        _status, text = self.get("/metrics")
        return {
            f"{sample.name}{''.join(f' {value}' for _name, value in sorted(sample.labels.items()))}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine answer late."""
    monkeypatch.setattr(server, "_PATIENCE", 300.0)


@pytest.fixture
def daemon(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(cached, "AGE", 0.0)
    port = _free_port()
    status = Status(StatusSettings("127.0.0.1", port, page=True))
    machine.meter = status.meter
    listeners = [Listener(turned_at=time.monotonic())]
    board = Board([Source("[engine] hold_file", lambda: [Hold("host:compute-7", "memory test")])])
    board.refresh()
    status.serve(machine.database, machine.tasks(), lambda: listeners, Inventories(list), board)  # type: ignore[arg-type,return-value]
    deliveries.subscribe(machine.database, {"chat": ["healed"]})
    yield Daemon(machine, listeners, port)
    status.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_metrics_count_heals_by_source(daemon: Daemon) -> None:
    machine = daemon.machine
    machine.world.things = {"a": 1, "b": 1, "glued": 1}
    machine.world.unhealable = frozenset({"glued"})
    machine.start()
    machine.enqueue(hint("a"), hint("b", priority=work.Priority.SWEEP), hint("glued"), hint("right"))
    eventually(machine.idle)
    found = daemon.samples()
    assert found["stackmend_heals_total mender healed event"] == 2
    assert found["stackmend_reconciles_total mender healed"] == 2
    assert found["stackmend_reconciles_total mender clean"] >= 1
    assert found["stackmend_reconciles_total mender refused"] == 1
    assert found["stackmend_findings_total mender event"] == 3
    assert found["stackmend_heal_lag_seconds_count mender"] == 2
    assert found["stackmend_journal_rows mender reported"] == 1
    assert found["stackmend_journal_rows mender pending"] == 0
    assert found["stackmend_journal_up"] == 1
    assert found["stackmend_events_total nova ignored"] == 6
    assert found["stackmend_bus_connected nova"] == 1


def test_metrics_count_the_finds_of_a_sweep_separately(daemon: Daemon) -> None:
    machine = daemon.machine
    machine.world.things = {"missed": 1}
    machine.start()
    hinting.enqueue(machine.database, [work.Hint("mender", Key("sweep", "mender"), work.Priority.OPERATOR, "start")])
    eventually(lambda: machine.world.writes == {"missed": 1})
    eventually(lambda: daemon.samples().get("stackmend_heals_total mender healed sweep") == 1)
    found = daemon.samples()
    assert found["stackmend_findings_total mender sweep"] == 1
    assert found["stackmend_sweep_population mender"] == 1
    assert found["stackmend_sweep_age_seconds mender"] >= 0


def test_no_label_names_an_object(daemon: Daemon) -> None:
    machine = daemon.machine
    machine.world.things = {"an-object-of-the-cloud": 1}
    machine.start()
    machine.enqueue(hint("an-object-of-the-cloud"))
    eventually(machine.idle)
    _status, text = daemon.get("/metrics")
    assert "stackmend_heals_total" in text
    assert "an-object-of-the-cloud" not in text
    assert "secret" not in text


def test_a_journal_that_is_away_is_one_gauge(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.status.metrics.backlog.depths", _journal_down)
    found = daemon.samples()
    assert found["stackmend_journal_up"] == 0
    assert found["stackmend_bus_connected nova"] == 1
    assert not any(name.startswith("stackmend_journal_rows") for name in found)


def _journal_down(_database: object) -> None:
    raise JournalUnavailable("the journal does not answer")


def test_probes(daemon: Daemon) -> None:
    daemon.machine.start()
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/readyz") == (200, "journal: ok\nbroker nova: ok\n")
    daemon.listeners[0].connected = False
    assert daemon.get("/readyz") == (503, "journal: ok\nbroker nova: not connected\n")
    assert daemon.get("/healthz")[0] == 200


def test_a_silent_loop_is_unhealthy() -> None:
    clock = [0.0]
    beats = Beats(lambda: clock[0])
    beats.beat("dispatcher")
    clock[0] = SILENT
    assert alive(beats, []).healthy
    clock[0] = SILENT + 1
    health = alive(beats, [])
    assert not health.healthy
    assert health.lines == ("dispatcher: silent for 121 s",)


def test_a_silent_listener_is_unhealthy() -> None:
    beats = Beats(lambda: SILENT + 5)
    health = alive(beats, [Listener(turned_at=0.0)])  # type: ignore[list-item]
    assert not health.healthy


def test_only_reading(daemon: Daemon) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert daemon.get("/", method)[0] == 405
    assert daemon.get("/nothing")[0] == 404
    assert daemon.get("/", "HEAD") == (200, "")


def test_only_the_live_page_reloads_itself(daemon: Daemon) -> None:
    """A reader of the other page may need more time than 15 seconds."""
    found = {}
    for path in ("/", "/live"):
        with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}{path}", timeout=300) as answer:
            found[path] = (answer.headers["Refresh"], "http-equiv" in answer.read().decode())
    assert found == {"/": (None, False), "/live": ("15", False)}


def test_the_page_shows_heals_drift_and_what_is_parked(daemon: Daemon) -> None:
    machine = daemon.machine
    machine.world.things = {"a": 1, "glued": 1}
    machine.world.unhealable = frozenset({"glued"})
    machine.start()
    machine.enqueue(hint("a"), hint("glued"))
    eventually(machine.idle)
    status, page = daemon.get("/")
    assert status == 200
    assert "mended a" in page
    assert "undo: <code>break a</code>" in page
    assert "thing:glued" in page
    assert "<script" not in page
    assert "secret" not in page


def test_the_page_escapes_what_comes_from_events(daemon: Daemon) -> None:
    machine = daemon.machine
    evil = "<script>alert(1)</script>\x1b[31m"
    origin = history.Origin("thing.broken", "r1")
    text = f"{evil} at rabbit://nova:hunter2@host/"
    finding = Finding(Key("thing", "<script>alert(2)</script>"), "broken", text)
    history.append(machine.database, [history.Line.of("mender", finding, Outcome.FOUND, origin)])
    _status, page = daemon.get("/")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert "hunter2" not in page
    assert "rabbit://nova:***@host/" in page


def test_the_page_shows_an_inventory_or_its_error(machine: Machine) -> None:
    class Burning(Shelf):
        title = "Burning things"

        def items(self) -> list[dict[str, str]]:
            raise Unavailable("workshop", "it burns")

    SHELF.clear()
    SHELF["kept-thing"] = "because"
    inventories = Inventories(lambda: [Shelf(), Burning()])
    inventories.refresh()
    SHELF.clear()
    page = Page(machine.database, machine.tasks(), list, inventories, Board()).make().body
    assert "Things on the shelf" in page
    assert "kept-thing" in page
    assert "workshop: it burns" in page
    assert "No broker is known" in page


def test_the_page_and_the_metrics_show_holds(daemon: Daemon) -> None:
    _status, page = daemon.get("/")
    assert all(text in page for text in ("Why heals wait", "host:compute-7", "memory test", "[engine] hold_file"))
    samples = daemon.samples()
    assert samples["stackmend_holds [engine] hold_file"] == 1
    assert samples["stackmend_hold_unreadable [engine] hold_file"] == 0


def test_a_taken_port_is_named(daemon: Daemon) -> None:
    other = Status(StatusSettings("127.0.0.1", daemon.port))
    with pytest.raises(CannotListen, match=rf"\[status\] bind = 127.0.0.1, port = {daemon.port}: .*choose another"):
        other.serve(daemon.machine.database, {}, list, Inventories(list), Board())


def test_readiness_reports_that_no_broker_is_known(machine: Machine) -> None:
    health = ready(machine.database, [])
    assert health.healthy
    assert re.search("only sweeps find drift", health.lines[1])


def test_clients_that_send_slowly_are_few_and_cut_off(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then renews no deadline."""
    monkeypatch.setattr(server, "_PATIENCE", 2.0)
    slow = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(100)]
    try:
        for _ in range(6):
            for client in slow:
                with contextlib.suppress(OSError):
                    client.sendall(b"G")
            # 16 serve. Others have just given up their place, and end.
            assert sum("process_request_thread" in thread.name for thread in threading.enumerate()) < 50
            time.sleep(0.5)
        eventually(lambda: _answers(daemon))
    finally:
        for client in slow:
            client.close()


def _answers(daemon: Daemon) -> bool:
    try:
        return daemon.get("/healthz")[0] == 200
    except OSError:
        return False


def test_many_scrapes_read_the_journal_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions: list[object] = []
    transact = machine.database.transact
    monkeypatch.setattr(machine.database, "transact", lambda action: (transactions.append(action), transact(action))[1])
    port = _free_port()
    status = Status(StatusSettings("127.0.0.1", port, page=True))
    status.serve(machine.database, machine.tasks(), list, Inventories(list), Board())
    daemon = Daemon(machine, [], port)
    try:
        pages = ("/metrics", "/readyz", "/")
        for page in pages:
            assert daemon.get(page)[0] in (200, 503)
        once = len(transactions)
        for page in pages * 10:
            daemon.get(page)
        assert len(transactions) == once > 0
    finally:
        status.stop()


@pytest.mark.parametrize("address", ["::1", "::"])
def test_an_address_of_ipv6_is_served(machine: Machine, address: str) -> None:
    port = _free_port()
    status = Status(StatusSettings(address, port))
    status.serve(machine.database, machine.tasks(), list, Inventories(list), Board())
    try:
        with urllib.request.urlopen(f"http://[::1]:{port}/healthz", timeout=300) as answer:
            assert answer.status == 200
    finally:
        status.stop()
