"""Which brokers the daemon listens to, and what it says while it does not know."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer import conf as configuration
from consumer import plugins
from consumer.engine import service
from consumer.engine.meter import Meter
from consumer.engine.service import Service, merged
from consumer.journal.database import Database
from handlers.base import Broker, Resources, Unavailable
from tests.functional.engine.conftest import eventually


def test_brokers_at_one_url_are_one() -> None:
    brokers = [Broker("nova", "u", ("nova",)), Broker("cell:a", "v", ("nova",)), Broker("octavia", "u", ("octavia",))]
    assert [(one.name, one.exchanges) for one in merged(brokers)] == [
        ("nova,octavia", ("nova", "octavia")),
        ("cell:a", ("nova",)),
    ]


def test_what_keeps_the_brokers_unknown_is_said_once(
    journal: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "_BROKERS_AGAIN", 0.001)
    asked = []

    def unknown(_resources: Resources) -> Iterator[Broker]:
        asked.append(1)
        raise Unavailable("nova_api", "it is away" if len(asked) < 20 else "it is still away")

    file = tmp_path / "stackmend.conf"
    file.write_text("")
    conf = configuration.load(plugins.handlers(), [str(file)])
    daemon = Service(conf, journal, Resources(conf), [], [unknown], Meter())
    with caplog.at_level(logging.WARNING, "consumer.engine.service"):
        daemon.start()
        eventually(lambda: len(asked) > 50)
        daemon.stop()
    said = [record.getMessage() for record in caplog.records if "the list of brokers" in record.getMessage()]
    assert len(said) == 2, "once for each reason"
    assert "still away" in said[1]
