"""The alerts and the dashboard ask for metrics, labels and values that a daemon has; the alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from consumer.journal import hinting, work
from handlers.base import Key
from tests.functional.engine.conftest import journal, machine, world
from tests.functional.engine.machine import Machine, hint
from tests.functional.status.test_status import Daemon, daemon
from tests.functional.texts.tools import tool
from tests.waiting import eventually

__all__ = ["daemon", "journal", "machine", "world"]

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "etc" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "etc" / "grafana" / "stackmend.json"
RUNBOOK = ROOT / "doc" / "source" / "runbook.rst"
WATCHING = ROOT / "doc" / "source" / "watching.rst"

#: Labels by metric, and values by label where there is a fixed set of them.
Exposed = dict[str, set[str]]
VALUES = {
    "outcome": {
        "clean",
        "found",
        "refused",
        "waits",
        "healed",
        "failed",
        "parked",
        "conflict",
        "taken",
        "ignored",
        "dead",
    },
    "state": {"pending", "running", "reported", "parked"},
    "by": {"operator", "breaker"},
    "source": {"event", "sweep", "operator"},
}


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Yield every expression, with where it stands."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


@pytest.fixture
def exposed(machine: Machine, request: pytest.FixtureRequest) -> Exposed:
    """What a daemon exposes that has a budget, has healed something after an event, and swept."""
    machine.heals_per_hour = 50
    daemon: Daemon = request.getfixturevalue("daemon")
    machine.world.things = {"a": 1}
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    hinting.enqueue(machine.database, [work.Hint("mender", Key("sweep", "mender"), work.Priority.OPERATOR, "start")])
    eventually(lambda: any(name.startswith("stackmend_sweep_age") for name in daemon.samples()))
    _status, text = daemon.get("/metrics")
    found: Exposed = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_query_names_metrics_and_labels_that_there_are(exposed: Exposed) -> None:
    asked = list(queries())
    assert len(asked) > 30
    for where, query in asked:
        selectors = re.findall(r"(stackmend_\w+)(?:\{([^}]*)\})?", query)
        assert selectors, where
        labels: set[str] = set()
        for metric, matchers in selectors:
            assert metric in exposed, f"{where}: there is no {metric}"
            labels |= exposed[metric]
            for label, values in re.findall(r'(\w+)[!=]~?"([^"]*)"', matchers):
                assert label in exposed[metric], f"{where}: {metric} has no label {label}"
                assert set(values.split("|")) <= VALUES[label], f"{where}: {label} is never {values}"
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            assert set(grouped.split(", ")) <= labels, f"{where}: no label {grouped}"


def test_every_metric_is_documented_and_on_the_dashboard(exposed: Exposed) -> None:
    page = WATCHING.read_text()
    board = " ".join(query for _where, query in queries())
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed if name.startswith("stackmend_")}
    ours = {name for name in ours if not name.endswith("_created")}
    assert {name for name in ours if not re.search(rf"\b{name}\b", page)} == set()
    assert {name for name in ours if name not in board} == set()


def test_every_alert_has_a_section_in_the_runbook_and_tests() -> None:
    sections = re.findall(r"^(Stackmend\w+)\n=+$", RUNBOOK.read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in rules()]
    assert sections == names
    cases = yaml.safe_load(ALERTS.with_name("alerts_test.yml").read_text())["tests"]
    tried = [
        (case["alert_rule_test"][0]["alertname"], bool(case["alert_rule_test"][0]["exp_alerts"])) for case in cases
    ]
    assert set(tried) == {(name, fires) for name in names for fires in (True, False)}


def test_the_alerts_fire_when_they_should() -> None:
    promtool = tool("promtool", "prometheus")
    folder = ALERTS.parent
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        ran = subprocess.run([promtool, *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
