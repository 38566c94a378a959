"""The page of peers has an answer for each check of the operators' scripts, with the times of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer import conf, plugins
from consumer.conf import tasks

PAGE = Path(__file__).parents[3] / "doc" / "source" / "peers.rst"
HANDLERS = {handler.name: handler for handler in plugins.handlers() if handler.__module__.startswith("handlers.")}
_EVENT = re.compile(r"(\d+) s after ``([a-z_.]+)``; ")
_SWEEP = re.compile(r"sweep every (\d+) s$")


def rows() -> list[tuple[str, str, str, str]]:
    """Return the rows of the table of scripts: check, handlers, time, undo."""
    table = PAGE.read_text().partition("Beside scripts of operators")[2]
    found = re.findall(r"^   \* - (.+)\n     - (.+)\n     - (.+)\n     - (.+)$", table, re.MULTILINE)
    assert len(found) == table.count("   * - ")
    return found[1:]


ROWS = rows()


def test_the_table_has_rows() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize(("check", "answer", "found", "undo"), ROWS)
def test_a_row_names_a_handler_with_its_times_or_a_reason(check: str, answer: str, found: str, undo: str) -> None:
    names = re.findall(r":doc:`handlers/([a-z_]+)`", answer)
    if not names:
        assert answer.startswith("none: ")
        assert found == "not found"
        return
    assert set(names) <= set(HANDLERS)
    handler = HANDLERS[names[0]]
    loaded = conf.new(list(HANDLERS.values()))
    loaded([], default_config_files=[], default_config_dirs=[], use_env=False)
    sweep = _SWEEP.search(found)
    assert sweep is not None
    assert float(sweep[1]) == tasks.settings(loaded, handler).interval
    events = {trigger.event: trigger.after for trigger in handler.triggers}
    event = _EVENT.match(found)
    assert (event is not None) is bool(events)
    if event is not None:
        assert events[event[2]] == float(event[1])


def test_every_handler_that_a_script_could_replace_is_on_the_page() -> None:
    named = set(re.findall(r":doc:`handlers/([a-z_]+)`", " ".join(answer for _, answer, _, _ in ROWS)))
    without_script = {"sync_aggregates", "audit_providers", "deactivated_amphorae", "spare_pool"}
    assert set(HANDLERS) - named == without_script
