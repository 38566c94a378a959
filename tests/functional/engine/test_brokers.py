"""The brokers that the daemon listens to, and its log while they are unknown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumer import conf as configuration
from consumer import plugins
from consumer.engine import service
from consumer.engine.meter import Meter
from consumer.engine.service import Service, merged
from consumer.journal.database import Database
from handlers.base import Broker, Resources, Unavailable
from tests.servers.server import HOST, free_port
from tests.waiting import eventually


def test_brokers_at_one_url_are_one() -> None:
    brokers = [Broker("nova", "u", ("nova",)), Broker("cell:a", "v", ("nova",)), Broker("octavia", "u", ("octavia",))]
    assert [(one.name, one.exchanges) for one in merged(brokers)] == [
        ("nova,octavia", ("nova", "octavia")),
        ("cell:a", ("nova",)),
    ]


@pytest.fixture
def daemon(journal: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Service]:
    """Make a daemon without tasks that listens to what these lists say, asked again and again."""
    for pause in ("_BROKERS_AGAIN", "_BROKERS_EVERY"):
        monkeypatch.setattr(service, pause, 0.001)
    file = tmp_path / "stackmend.conf"
    file.write_text("")
    conf = configuration.load(plugins.handlers(), [str(file)])
    return lambda *lists: Service(conf, journal, Resources(conf), [], lists, Meter())


def test_the_reason_for_unknown_brokers_is_logged_once(
    daemon: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def unknown(_resources: Resources) -> Iterator[Broker]:
        asked.append(1)
        raise Unavailable("nova_api", "it is away" if len(asked) < 20 else "it is still away")

    running = daemon(unknown)
    with caplog.at_level(logging.WARNING, "consumer.engine.service"):
        running.start()
        eventually(lambda: len(asked) > 50)
        running.stop()
    said = [record.getMessage() for record in caplog.records if "some brokers" in record.getMessage()]
    assert len(said) == 2, "once for each reason"
    assert "still away" in said[1]


def test_what_is_known_of_the_brokers_is_listened_to(daemon: Callable[..., Service]) -> None:
    """One list fails after its first broker; none is given up before all lists say that it is gone."""
    silent = {
        name: Broker(name, f"rabbit://guest:guest@{HOST}:{free_port()}/", ("nova",)) for name in ("api", "cell", "o")
    }
    here, there = [silent["api"]], [silent["o"]]
    away = [True]

    def nova(_resources: Resources) -> Iterator[Broker]:
        yield from here
        if away[0]:
            raise Unavailable("cell:cell1", "its URL is a template")

    def names() -> set[str]:
        return {source.broker.name for source in running.sources}

    running = daemon(nova, lambda _resources: there)
    running.start()
    try:
        eventually(lambda: names() == {"api", "o"})
        there.clear()
        here[:] = [silent["cell"]]
        eventually(lambda: names() == {"api", "o", "cell"})
        away[0] = False
        eventually(lambda: names() == {"cell"})
    finally:
        running.stop()
