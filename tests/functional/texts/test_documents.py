"""Handlers, commands, options and files that the documents name exist, and the documents are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer import conf, plugins
from consumer.cli.main import COMMANDS, INVENTORY_COMMANDS
from consumer.conf import tasks
from doc import directives, handler_pages, sphinx_extension
from handlers.base import Handler, Mode

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "doc" / "source"
HANDLERS = [handler for handler in plugins.handlers() if handler.__module__.startswith("handlers.")]
#: The headings that the manual of every handler has; another word may follow each of them.
HEADINGS = ("What drifts", "What is read", "What is changed")
#: options of the documents' example and of octavia.conf
FOREIGN_OPTIONS = {("audit", "expired_consoles_mode"), ("nova", "random_amphora_name_length")}
DOCUMENTS = [ROOT / "README.rst", *sorted(SOURCE.rglob("*.rst"))]


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
def test_the_manual_of_every_handler_has_the_headings(handler: type[Handler]) -> None:
    first, *rest = handler_pages.sections(handler_pages.manual(handler))
    titles = [section.title for section in rest]
    assert first.text, "a manual begins with one sentence"
    assert [heading for heading in HEADINGS if not any(title.startswith(heading) for title in titles)] == []
    assert all(section.text for section in rest)
    assert len(titles) == len(set(titles))
    changes = next(section.text for section in rest if section.title.startswith("What is changed"))
    assert "Undo" in titles or changes.startswith("Nothing")


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
def test_a_page_of_a_handler_is_generated(handler: type[Handler]) -> None:
    """A page may be missing: the build writes it. Headings written by hand must not repeat generated ones."""
    path = SOURCE / "handlers" / f"{handler.name}.rst"
    if not path.exists():
        return
    text = path.read_text()
    assert text.startswith(handler_pages.stub(handler.name))
    heads = re.findall(r"^(.+)\n=+$", directives.expand(text, HANDLERS), re.MULTILINE)
    assert len(heads) == len(set(heads))


def test_the_build_writes_the_page_of_a_handler_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "purge.rst").write_text("a page with more text")

    sphinx_extension.write_missing_pages(tmp_path)

    assert {path.stem for path in tmp_path.iterdir()} == {handler.name for handler in HANDLERS}
    assert (tmp_path / "purge.rst").read_text() == "a page with more text"
    assert (tmp_path / "discover_hosts.rst").read_text() == handler_pages.stub("discover_hosts")


def test_every_page_of_a_handler_belongs_to_one() -> None:
    pages = {path.stem for path in (SOURCE / "handlers").glob("*.rst")} - {"index"}
    assert pages <= {handler.name for handler in HANDLERS}


def test_the_readme_lists_handlers_with_their_modes_and_intervals() -> None:
    words = {Mode.HEAL: "heals", Mode.AUDIT: "reports", Mode.OFF: "off"}
    rows = re.findall(
        r"^([a-z_]+) +.*? (heals|reports|off) +(\d+) (s|min|h|d)$", (ROOT / "README.rst").read_text(), re.M
    )
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    loaded = conf.new(HANDLERS)
    loaded([], default_config_files=[], default_config_dirs=[], use_env=False)
    listed = {name: (mode, int(number) * units[unit]) for name, mode, number, unit in rows}
    known = {
        handler.name: (words[handler.default_mode], tasks.settings(loaded, handler).interval) for handler in HANDLERS
    }
    assert len(listed) > 10
    assert listed == {name: known.get(name) for name in listed}


def test_every_command_is_in_the_manual() -> None:
    page = (SOURCE / "cli.rst").read_text()
    listings = {f"{name} list" for name in plugins.inventory_names()}
    assert {words for words in {*COMMANDS, *listings} if not re.search(rf"``{words}\b", page)} == set()


def text_of(path: Path) -> str:
    """Return the text of a document, with the text that is generated into it."""
    return directives.expand(path.read_text(), HANDLERS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists(path: Path) -> None:
    known = {*COMMANDS, "help", "complete"}
    known |= {f"{name} {verb}" for name in plugins.inventory_names() for verb in INVENTORY_COMMANDS}
    named = set(re.findall(r"(?:``|bin/)stackmend ([a-z]+(?: [a-z]+)*)", text_of(path)))
    assert {words for words in named if not any(_begins(words, one) or _begins(one, words) for one in known)} == set()


def _begins(words: str, command: str) -> bool:
    """Return whether the words are the command, with or without arguments."""
    return f"{words} ".startswith(f"{command} ")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_is_named_exists(path: Path) -> None:
    loaded = conf.new(plugins.handlers())
    ours = {"journal", "bus", "engine", "status", "audit", "housekeeping", "nova", "octavia", "openstack"}
    named = set(re.findall(r"``\[(\w+)\] ([a-z]\w+)", text_of(path)))
    wrong = {(group, name) for group, name in named if group in ours and name not in loaded[group]}
    assert wrong <= FOREIGN_OPTIONS


def test_files_that_are_named_exist() -> None:
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"``((?:etc|deploy|doc|handlers|devstack)/[\w./-]+)``", text_of(path))
    }
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()
