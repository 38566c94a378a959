"""The commands and statements on the pages: programs know them, and tests run them."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer import plugins
from consumer.cli.main import COMMANDS, INVENTORY_COMMANDS, Program
from tests.functional.nova.commands import texts
from tests.functional.nova.commands.advice import ADVICE, UNDO
from tests.functional.nova.commands.operator import Operator
from tests.functional.nova.commands.syntax import Command, read
from tests.functional.nova.proofs import allocations, hosts, mappings
from tests.functional.nova.proofs.drift import Drift
from tests.functional.nova.proofs.stage import Scene, Stage

ROOT = texts.ROOT
NOVA = {one.name for one in plugins.handlers() if one.__module__.startswith("handlers.nova.")}
#: pages of Octavia's handlers, whose commands its own tests run
OF_OCTAVIA = {one.name for one in plugins.handlers() if one.__module__.startswith("handlers.octavia.")}
#: the page that names each command of nova-manage; its own test compares it with the real ones
REPLACED = "migrating"
PAGES = [path for path in texts.pages() if path.stem not in {*OF_OCTAVIA, REPLACED}]
_OURS = re.compile(r"(?:sudo -u stackmend |/opt/stackmend/bin/|')?stackmend (?=[a-z])")
#: what stands on pages and in the code for a key, a name or a number
_PLACES = {
    "HANDLER": "audit_ports",
    "NAME": "audit_ports",
    "KEY": "instance:1",
    "ID": "7",
    "VALUE": "7",
    "...": "purge",
}
#: commands that prepare a cloud and are no part of a heal; an operator runs them once
_PREPARE = {
    "nova-manage cell_v2 update_cell",
    "openstack project show",
    "openstack role add",
    "openstack role create",
    "openstack user create",
}
#: commands by which owners exempt their objects; ``test_exempt_tags.py`` writes the tags
_EXEMPTING = {"openstack loadbalancer set", "openstack server set"}


#: for a page: a drift, a command with the subject as ``{}``, and whether its output has a word
SHOWS = (
    ("audit_services.rst", hosts.MAPPING_LEFT, "nova-manage cell_v2 list_hosts", '"{}"', True),
    ("audit_services.rst", hosts.MAPPING_LEFT, "openstack compute service list --host {}", "ID", False),
    ("audit_services.rst", hosts.PROVIDER_LEFT, "openstack resource provider list", '"{}"', True),
    ("discover_hosts.rst", hosts.UNMAPPED, "nova-manage cell_v2 list_hosts", '"{}"', False),
    (
        "map_instances.rst",
        mappings.INSTANCE_UNMAPPED,
        "nova-manage cell_v2 verify_instance --uuid {}",
        "is not mapped to a cell",
        True,
    ),
    (
        "heal_instance_mappings.rst",
        mappings.WITHOUT_CELL,
        "nova-manage cell_v2 verify_instance --uuid {}",
        "is not mapped to a cell",
        True,
    ),
    (
        "audit_migrations.rst",
        allocations.MIGRATION_HOLDS,
        "openstack resource provider allocation show {}",
        "resources",
        True,
    ),
)


def foreign() -> Iterator[tuple[Path, str, Command]]:
    """Yield the commands of other programs on pages."""
    for path in PAGES:
        for text in texts.of_page(path):
            if re.match(r"(?:openstack|nova-manage) [a-z]", text):
                yield path, text, read(text)


def on_a_real_nova() -> set[str]:
    """Return the commands of nova-manage that the tests with a real Nova name."""
    found = set()
    for path in (ROOT / "tests" / "cloud").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(" ".join(node.value.split()[:2]))
            if isinstance(node, ast.Call):
                found.add(" ".join(str(one.value) for one in node.args[:2] if isinstance(one, ast.Constant)))
    return {f"nova-manage {words}" for words in found}


def test_the_programs_know_every_command_of_the_pages() -> None:
    assert len({command.name for _, _, command in foreign()}) > 20


def test_a_test_runs_every_command_of_a_page_about_nova() -> None:
    """The safety page names the undo of each heal, which its own test runs."""
    run = {name for advice in ADVICE for name in advice.runs} | {name for _, name in UNDO} | _PREPARE | on_a_real_nova()
    run |= _EXEMPTING | {read(text).name for _, _, text, _, _ in SHOWS}
    pages = [(path.name, command.name) for path, _, command in foreign() if path.stem != "safety"]
    assert {(page, name) for page, name in pages if name not in run} == set()


@pytest.mark.parametrize(("page", "drift", "command", "word", "there"), SHOWS)
def test_other_tools_show_the_drift_as_the_page_describes(
    stage: Stage, empty: Scene, page: str, drift: Drift, command: str, word: str, there: bool
) -> None:
    stage.show(empty)
    _, [subject, *_] = drift.build(stage)
    output = Operator(stage).run(read(command.format(subject)))
    assert (word.format(subject) in output) is there
    assert read(command).name in " ".join((ROOT / "doc" / "source" / "handlers" / page).read_text().split())


def ours() -> Iterator[tuple[str, str]]:
    """Yield our commands on pages and in messages, each with its place."""
    for path in texts.pages():
        for text in texts.of_page(path):
            if match := _OURS.match(text):
                yield str(path.relative_to(ROOT)), text[match.end() :].partition(" | ")[0]
    for folder in ("handlers", "consumer"):
        for file, text in texts.of_findings(folder):
            for words in re.findall(r"'stackmend ([a-z][^']*)'", text):
                yield file, words


def test_our_parser_accepts_every_command() -> None:
    known = dict(COMMANDS)
    for name in plugins.inventory_names():
        known |= {f"{name} {verb}": f"inventory:{kind}" for verb, kind in INVENTORY_COMMANDS.items()}
    found = sorted(set(ours()))
    assert len(found) > 100
    for place, words in found:
        _parse(place, words, known)


def _parse(place: str, words: str, known: Mapping[str, str]) -> None:
    name = max((one for one in known if f"{words} ".startswith(f"{one} ")), key=len, default="")
    if words.split(maxsplit=1)[0] == "help":
        return
    if any(one.startswith(f"{words} ") for one in known):
        return  # the first words of several commands
    assert name, f"{place}: stackmend {words}"
    arguments = [_PLACES.get(word, word) for word in shlex.split(words.removeprefix(name))]
    if not arguments:
        return  # the name of the command
    program = Program("stackmend")
    command = EntryPoint(name, f"consumer.cli.{known[name]}", "stackmend.commands").load()(
        program, argparse.Namespace()
    )
    try:
        command.get_parser(f"stackmend {name}").parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{place}: stackmend {words}")


def statements() -> list[str]:
    """Return the complete SELECT statements of the pages about Nova."""
    found = [re.findall(r"^ +(SELECT .+;)$", path.read_text(), re.MULTILINE) for path in PAGES]
    return [one for some in found for one in some]


def test_the_statements_of_the_pages_answer_in_a_cell(stage: Stage, empty: Scene) -> None:
    stage.show(empty)
    cloud = stage.cloud
    with cloud.ago(days=400):
        cloud.add_compute("a", "cell1")
        gone, _ = cloud.boot("a"), cloud.boot("a")
        cloud.delete(gone)
    with cloud.cells["cell1"].connect() as connection:
        assert [connection.scalar(sa.text(one)) for one in statements()] == [1]
