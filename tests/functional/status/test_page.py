"""The page: what it shows, how it escapes it, and what it costs. No test here uses HTTP."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import event, insert

from consumer.bus.intake import Backlog
from consumer.conf.window import Window
from consumer.engine.holds import Board, Source
from consumer.journal import asks, backlog, controls, exemptions, hours, schema
from consumer.journal.database import Database
from consumer.journal.errors import JournalUnavailable
from consumer.journal.history import Outcome
from consumer.status import past, rows
from consumer.status.inventories import Inventories
from consumer.status.page import Page, cell
from handlers.base import Broker, Finding, Hold, Inventory, Key, Mode, Resources, Unavailable
from tests import journals
from tests.doubles import World
from tests.functional.cli.test_cli_inventory import Shelf
from tests.functional.engine.conftest import journal, machine, world
from tests.functional.engine.machine import Machine
from tests.functional.status.test_status import Listener

__all__ = ["journal", "machine", "world"]

#: Ends every context of HTML, and has passwords in two forms.
HOSTILE = (
    "\"'></code></title><script>alert(1)</script><img src=x onerror=alert(2)> rabbit://u:hunter2@h/ password=hunter3"
)


def entry(**values: Any) -> dict[str, Any]:
    """Return a row of the history."""
    plain = {"at": time.time(), "handler": "mender", "key": "thing:a", "outcome": "found", "problem": "broken"}
    return {**plain, "summary": "it is broken", "evidence": "{}", "hint": "sweep", "replica": "r1", **values}


def row(key: str, state: str, error: str = "") -> dict[str, Any]:
    """Return a row of the work table."""
    plain = {"handler": "mender", "priority": 10, "hint": "sweep", "not_before": 1.0, "first_hint_at": 1.0}
    return {**plain, "last_hint_at": 1.0, "key": key, "state": state, "error": error}


def store(database: Database, table: Any, *values: dict[str, Any]) -> None:
    database.transact(lambda connection: connection.execute(insert(table), list(values)))


def ask(database: Database, text: str, expires_in: float) -> None:
    finding = Finding(Key("thing", text), "broken", text, refusal=text, plan=text, undo=text)
    end = time.time() + expires_in
    database.transact(lambda connection: asks.put(connection, "mender", finding, "f", end, time.time()))


@dataclass
class Cupboard(Inventory):
    """An inventory that counts how often it was listed."""

    title: str = "Things in the cupboard"  # type: ignore[misc]
    columns: tuple[str, ...] = ("thing",)  # type: ignore[misc]
    things: list[str] = field(default_factory=lambda: ["a cup"])
    silent: str = ""
    listed: int = 0

    @classmethod
    def from_resources(cls, _resources: Resources) -> Self:
        return cls()

    def items(self) -> list[dict[str, str]]:
        self.listed += 1
        if self.silent:
            raise Unavailable("cupboard", self.silent)
        return [{self.columns[0]: thing} for thing in self.things]

    def show(self, identity: str) -> dict[str, str]:
        raise LookupError(identity)


def full_page(machine: Machine, text: str) -> str:
    """Return a page that shows a text wherever a text from outside can appear."""
    database = machine.database
    controls.ensure(database, ["mender", "careful_mender"])
    controls.pause(database, ["mender"], text)
    values = {"key": f"thing:{text}", "summary": text, "error": text, "undo": text}
    store(database, schema.history, entry(**values), entry(**values, outcome="healed", action=text, lag=1.0))
    store(database, schema.work, row(f"thing:{text}", "reported", text), row(f"other:{text}", "parked", text))
    alive = {"started_at": time.time(), "beat_at": time.time()}
    store(database, schema.replica, {"id": "r", "host": text, "pid": 1, "version": text, **alive})
    ask(database, text, 3600)
    exemptions.add(database, text, None, text, text)
    board = Board([Source(text, lambda: [Hold(text, text)])])
    board.refresh()
    cupboard = Cupboard(text, (text,), [text])
    inventories = Inventories(lambda: [cupboard])
    inventories.refresh()
    cupboard.silent = text
    inventories.refresh()
    broker = Broker(text, "rabbit://u:secret@host/", ("nova",))
    source = Listener(broker, connected=False, problem=text, queues=(text,), missing=(text,))
    return Page(database, machine.tasks(), lambda: [source], inventories, board).make().body  # type: ignore[list-item]


class Structure(HTMLParser):
    """Records the tags of a page with the names of their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _value in attrs)))


@contextmanager
def another(folder: Path) -> Iterator[Machine]:
    folder.mkdir()
    database = journals.fresh(folder)
    yield Machine(database, World())
    database.close()


def test_hostile_text_never_becomes_html_and_shows_no_password(tmp_path: Path) -> None:
    with another(tmp_path / "a") as first, another(tmp_path / "b") as second:
        harmless, hostile = full_page(first, "harmless"), full_page(second, HOSTILE)
    # a heading of a column begins with a capital
    assert harmless.lower().count("harmless") == hostile.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 25
    assert Structure(hostile).tags == Structure(harmless).tags
    assert "hunter" not in hostile
    assert "secret" not in hostile
    assert "rabbit://u:***@h/" in hostile


def test_a_password_that_crosses_the_end_of_a_long_value_is_not_shown() -> None:
    for length in range(3900, 4100, 7):
        shown = str(cell(f"{'x' * length} rabbit://u:{'hunter2' * 9}@host/ {'y' * 9000}"))
        assert "hunter" not in shown
        assert len(shown) < 4100


def test_the_page_tells_the_breaker_from_a_fallen_watermark(machine: Machine) -> None:
    database, tasks = machine.database, machine.tasks()

    def waits() -> list[tuple[str, str, bool]]:
        return [(wait.reason, wait.source, wait.serious) for wait in rows.of_journal(database, tasks, ()).waits]

    database.transact(lambda connection: controls.trip(connection, "mender", "too many"))
    assert waits() == [("too many", "breaker", False)]
    database.transact(lambda connection: controls.break_off(connection, ["mender"], "an older copy"))
    assert waits() == [("an older copy", "watermark", True)]


def test_the_page_shows_asks_exemptions_replicas_and_why_heals_wait(machine: Machine) -> None:
    machine.mode, machine.heals_per_hour = Mode.ASK, 2
    machine.window = Window.parse("Mon 00:00-01:00")
    machine.clock = lambda: datetime(2026, 11, 24, 12, tzinfo=UTC)
    database = machine.database
    now = time.time()
    store(database, schema.history, *(entry(outcome="healed", weight=1, at=now - 9) for _ in range(2)))
    beats = {
        "id": "r1",
        "host": "control-1",
        "pid": 4242,
        "version": "9.9",
        "started_at": now - 7200,
        "beat_at": now - 2,
    }
    store(database, schema.replica, beats)
    ask(database, "a", 3 * 3600 + 60)
    ask(database, "gone", -60)
    exemptions.add(database, "host:compute-9", None, "carol", "kept for its vendor")
    exemptions.add(database, "host:ended", 1.0, "carol", "over")
    controls.ensure(database, ["mender", "careful_mender"])
    controls.pause(database, ["careful_mender"], "by hand")
    source = Listener(backlog=Backlog(1234, time.monotonic() - 30))
    text = Page(database, machine.tasks(), lambda: [source], Inventories(list), Board()).make().body  # type: ignore[list-item]
    for shown in (
        "plan: <code>a</code>",
        "in 3 h",
        "host:compute-9",
        "carol",
        "control-1",
        "4242",
        "by hand",
        "the window opens in 6 d (Mon 00:00-01:00)",
        "[audit] mender_window",
        "the budget of 2 objects in an hour is used up",
        "1,234",
    ):
        assert shown in text, shown
    assert "thing:gone" not in text
    assert "host:ended" not in text


def test_more_rows_than_the_page_shows_are_counted(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LINES", 2)
    store(machine.database, schema.work, *(row(f"thing:k{number}", "reported") for number in range(15)))
    for number in range(5):
        ask(machine.database, f"asked{number}", 3600 + number)
    board = Board([Source("[engine] hold_file", lambda: [Hold(f"host:h{number}", "why") for number in range(4)])])
    board.refresh()
    text = Page(machine.database, machine.tasks(), list, Inventories(list), board).make().body
    assert text.count("<code>thing:k") == rows.EACH
    assert "10 of 15. All: <code>stackmend work list --state reported --handler mender</code>" in text
    assert "2 of 5. All: <code>stackmend work asks</code>" in text
    assert "2 of 4. All: <code>stackmend hold list</code>" in text
    assert text.count("<code>host:h") == 2


def test_rendering_calls_no_api_and_opens_no_connection(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    cupboard = Cupboard()
    inventories = Inventories(lambda: [cupboard])
    inventories.refresh()
    read: list[str] = []
    board = Board([Source("prometheus", lambda: read.append("hold") or [])])
    board.refresh()
    page = Page(machine.database, machine.tasks(), list, inventories, board)

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the page opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert "a cup" in page.make().body
    assert cupboard.listed == len(read) == 1


def test_while_the_journal_is_away_the_page_shows_its_last_rows(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_arguments: object) -> None:
        raise JournalUnavailable("down")

    page = Page(machine.database, machine.tasks(), list, Inventories(list), Board())
    never = Page(machine.database, machine.tasks(), list, Inventories(list), Board())
    store(machine.database, schema.work, row("thing:known", "reported"))
    assert "thing:known" in page.make().body
    monkeypatch.setattr(Database, "read", down)
    monkeypatch.setattr(Database, "transact", down)
    monkeypatch.setattr(page, "_last_at", time.monotonic() - 300)
    text = page.make().body
    assert "does not answer" in text
    assert "5 min ago" in text
    assert "thing:known" in text
    text = never.make().body
    assert "does not answer" in text
    assert "No broker is known" in text


def test_an_inventory_that_is_away_shows_its_last_items_with_their_age(machine: Machine) -> None:
    clock = [time.monotonic() - 600]
    cupboard = Cupboard()
    inventories = Inventories(lambda: [cupboard, Shelf()], lambda: clock[0])
    inventories.refresh()
    clock[0] += 60
    cupboard.silent = "the door is locked at rabbit://u:hunter2@h/"
    inventories.refresh()
    text = Page(machine.database, machine.tasks(), list, inventories, Board()).make().body
    assert "a cup" in text
    assert "the door is locked" in text
    assert "hunter2" not in text
    assert "As read 10 min ago" in text
    assert "As read 9 min ago" in text


def test_the_thread_of_the_inventories_reads_again_and_survives_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.status.inventories._EVERY", 0.01)
    cupboard = Cupboard()
    answers = iter([ValueError("a bug")])

    def make() -> list[Inventory]:
        for error in answers:
            raise error
        return [cupboard]

    inventories = Inventories(make)
    assert inventories.known() == ()
    inventories.start()
    end = time.monotonic() + 120
    while cupboard.listed < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    inventories.stop()
    assert [listing.items for listing in inventories.known()] == [({"thing": "a cup"},)]


def test_hours_that_are_over_are_read_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[float] = []
    count = hours.read
    monkeypatch.setattr(hours, "read", lambda connection, begin: read.append(begin) or count(connection, begin))
    # Early in an hour, the last one may still change.
    monkeypatch.setattr(past, "_GRACE", 0.0)
    now = time.time()
    store(machine.database, schema.history, entry(outcome="healing", at=now - 5 * 3600), entry(at=now - 9 * 3600))
    known = past.Past(machine.database)
    first = known.read()
    assert len(read) == len(first) == 24
    assert sum(hour.count([Outcome.FOUND]) for hour in first) == 1
    read.clear()
    store(machine.database, schema.history, entry())
    second = known.read()
    # The present hour and the hour with the open heal, and one more if an hour has just ended.
    assert len(read) in (2, 3)
    assert sum(hour.count([Outcome.FOUND]) for hour in second) == 2


def steps(database: Database, page: Page) -> int:
    """Return how many hundreds of instructions SQLite executes to render a page."""
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    def watch(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(database.engine, "checkout", watch)
    assert page.make().status == "200 OK"
    event.remove(database.engine, "checkout", watch)
    return counted[0]


def test_the_page_reads_as_much_of_a_large_journal_as_of_a_small_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((hours, "MOST"), (rows, "COUNTED"), (asks, "_AMONG")):
        monkeypatch.setattr(module, name, 20)
    database, now = machine.database, time.time()

    def grow(number: int, begin: int) -> None:
        ids = range(begin, begin + number)
        store(database, schema.history, *(entry(at=now - id * 7919 % (48 * 3600)) for id in ids))
        store(database, schema.work, *(row(f"thing:{id}", ("reported", "parked", "pending")[id % 3]) for id in ids))
        waits = {"handler": "mender", "problem": "broken", "fingerprint": "f", "at": now, "weight": 1, "summary": "s"}
        ends = {"expires_at": now + 3600, "evidence": "{}"}
        states = ("waiting", "denied")
        store(database, schema.ask, *({**waits, **ends, "key": f"thing:{id}", "state": states[id % 2]} for id in ids))

    grow(3_000, 0)
    small = steps(database, Page(database, machine.tasks(), list, Inventories(list), Board()))
    grow(9_000, 3_000)
    large = steps(database, Page(database, machine.tasks(), list, Inventories(list), Board()))
    assert small > 10
    assert large < 1.2 * small + 5
    assert backlog.waiting(database) == 4_000
