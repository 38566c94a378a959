"""Which options a running daemon takes, and which it names as those that need a restart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from oslo_config import cfg

from consumer import conf, plugins
from consumer.conf import tasks
from consumer.conf.tasks import TaskSettings
from handlers.base import Handler

ROOT = Path(__file__).parents[3]
GROUPS = ("engine", *conf.HANDLER_GROUPS)
#: One of these differs from the default and is valid.
CANDIDATES = (
    "audit",
    "off",
    "1",
    "7",
    "80",
    "3601",
    "true",
    "false",
    "Sat 01:00-02:00",
    "Europe/Oslo",
    "cycle",
    "snapshot",
    "server",
    "noop",
    "x",
)

Option = tuple[str, str]


@pytest.fixture(scope="module")
def handlers() -> list[type[Handler]]:
    return plugins.handlers()


def loaded(handlers: list[type[Handler]], file: Path, values: Mapping[Option, str]) -> cfg.ConfigOpts:
    file.write_text("".join(f"[{group}]\n{name} = {text}\n" for (group, name), text in values.items()))
    made = conf.new(handlers)
    made([], project=conf.PROJECT, default_config_files=[str(file)], default_config_dirs=[])
    return made


def other_values(handlers: list[type[Handler]], file: Path, before: cfg.ConfigOpts) -> dict[Option, str]:
    """Return another valid value for each option."""
    options = {(group, name) for group in GROUPS for name in before[group]}
    found: dict[Option, str] = {}
    for text in CANDIDATES:
        after = loaded(handlers, file, dict.fromkeys(options, text))
        for group, name in options - set(found):
            with suppress(ValueError):
                if after[group][name] != before[group][name]:
                    found[group, name] = text
    assert options == set(found), "add a candidate"
    return found


def test_an_option_is_either_applied_or_named(handlers: list[type[Handler]], tmp_path: Path) -> None:
    file = tmp_path / "stackmend.conf"
    before = loaded(handlers, file, {})
    others = other_values(handlers, file, before)
    kinds = ("mode", "interval", "window", "heals_per_hour")
    own = {(handler.group, f"{handler.name}_{kind}") for handler in handlers for kind in kinds}
    own |= {(handler.group, handler.interval_option) for handler in handlers if handler.interval_option}
    general = {("engine", name) for name in documented()}
    at_once = {option: text for option, text in others.items() if option in own | general}
    later = {option: text for option, text in others.items() if option not in at_once}

    changed = loaded(handlers, file, at_once)
    assert conf.differences(before, changed, handlers) == []
    for handler in handlers:
        old, new = tasks.settings(before, handler), tasks.settings(changed, handler)
        assert [
            field.name for field in fields(TaskSettings) if getattr(old, field.name) == getattr(new, field.name)
        ] == []
    only_general = loaded(handlers, file, {option: others[option] for option in general})
    for option in general:
        assert any(
            getattr(tasks.settings(before, handler), option[1])
            != getattr(tasks.settings(only_general, handler), option[1])
            for handler in handlers
        )

    changed = loaded(handlers, file, later)
    assert conf.differences(before, changed, handlers) == sorted(f"[{group}] {name}" for group, name in later)
    assert [tasks.settings(changed, one) for one in handlers] == [tasks.settings(before, one) for one in handlers]


def documented() -> Iterator[str]:
    """Yield the options of [engine] that the page names as applied at once."""
    page = (ROOT / "doc/source/configuration.rst").read_text()
    section = page.partition("at once:")[2].partition("\nThe daemon logs")[0]
    yield from re.findall(r"``\[engine\] (\w+)``", section)
