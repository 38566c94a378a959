"""What the documents say is there: pages of handlers, commands, options, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer import conf, plugins
from consumer.cli.main import COMMANDS, INVENTORY_COMMANDS
from consumer.conf import tasks

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "doc" / "source"
HANDLERS = [handler for handler in plugins.handlers() if handler.__module__.startswith("handlers.")]
SECTIONS = (
    "What drifts, and why",
    "What is read",
    "What is changed",
    "Bounds",
    "Undo by hand",
    "How it looks elsewhere",
    "Hints",
)
DOCUMENTS = [ROOT / "README.rst", *sorted(SOURCE.rglob("*.rst"))]


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
def test_every_handler_has_a_page(handler: type) -> None:
    page = SOURCE / "handlers" / f"{handler.name}.rst"
    assert page.exists(), f"write {page.relative_to(ROOT)}, with the sections {', '.join(SECTIONS)}"
    text = " ".join(page.read_text().split())
    heads = re.findall(r"^(.+)\n=+$", page.read_text(), re.MULTILINE)
    assert heads == [handler.name, *SECTIONS]
    assert f"``[{handler.group}] {handler.name}_mode``, ``{handler.default_mode}`` by default" in text
    interval = f"``[{handler.group}] {handler.interval_option or handler.name + '_interval'}``"
    assert interval in text
    if not handler.interval_option:
        assert f"{interval}, {handler.default_interval} s by default" in text
    if handler.confirm_after:
        assert f"seen twice, {handler.confirm_after:g} s apart" in text.lower()
    told = {trigger.event for trigger in handler.triggers}
    hints = text.rpartition("Hints =")[2]
    assert {event for event in re.findall(r"``([a-z_.]+)``", hints) if "." in event} == told
    assert set(re.findall(r"``([a-z-]+):\.\.\.``", hints)) == set(handler.kinds)


def test_the_readme_lists_the_handlers_with_their_modes_and_intervals() -> None:
    words = {"heal": "heals", "audit": "reports", "off": "off"}
    rows = re.findall(
        r"^([a-z_]+) +.*? (heals|reports|off) +(\d+) (s|min|h|d)$", (ROOT / "README.rst").read_text(), re.M
    )
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    loaded = conf.new(HANDLERS)
    loaded([], default_config_files=[], default_config_dirs=[], use_env=False)
    said = {name: (mode, int(number) * units[unit]) for name, mode, number, unit in rows}
    assert said == {
        handler.name: (words[handler.default_mode], tasks.settings(loaded, handler).interval) for handler in HANDLERS
    }


def test_every_command_is_in_the_manual() -> None:
    page = (SOURCE / "cli.rst").read_text()
    kept = {f"{name} list" for name in plugins.inventory_names()}
    assert {words for words in {*COMMANDS, *kept} if not re.search(rf"``{words}\b", page)} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists(path: Path) -> None:
    known = {*COMMANDS, "help", "complete"}
    known |= {f"{name} {verb}" for name in plugins.inventory_names() for verb in INVENTORY_COMMANDS}
    named = set(re.findall(r"``stackmend ([a-z]+(?: [a-z]+)*)", path.read_text()))
    named |= set(re.findall(r"bin/stackmend ([a-z]+(?: [a-z]+)*)", path.read_text()))
    assert {words for words in named if not any(_begins(words, command) for command in known)} == set()


def _begins(words: str, command: str) -> bool:
    """Whether the words are the command, perhaps with arguments after it."""
    return f"{words} ".startswith(f"{command} ")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_is_named_exists(path: Path) -> None:
    loaded = conf.new(plugins.handlers())
    ours = {"journal", "bus", "engine", "status", "audit", "housekeeping", "nova", "octavia", "openstack"}
    named = set(re.findall(r"``\[(\w+)\] ([a-z]\w+)", path.read_text()))
    wrong = {
        (group, name)
        for group, name in named
        if group in ours and name not in loaded[group] and name != "expired_consoles_mode"
    }
    assert wrong == set()


def test_files_that_are_named_exist() -> None:
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"``((?:etc|doc|handlers|devstack)/[\w./-]+)``", path.read_text())
    }
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()
