"""Finds plugins (handlers, brokers, checks ...) by entry point, so that ``consumer`` imports none of them by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from oslo_config import cfg

from handlers.base import Broker, Check, Handler, HoldSources, Inventory, Resources, Watermarks
from handlers.demo import Demo

HANDLERS, BROKERS, OPTIONS = "stackmend.handlers", "stackmend.brokers", "stackmend.options"
DEMOS, INVENTORIES, CHECKS = "stackmend.demos", "stackmend.inventories", "stackmend.checks"
WATERMARKS, HOLDS = "stackmend.watermarks", "stackmend.holds"


class BrokenPlugin(Exception):
    """An entry point cannot be loaded, or names a wrong object."""


@cache
def _installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    found = entry_points()
    groups = (HANDLERS, BROKERS, OPTIONS, DEMOS, INVENTORIES, CHECKS, WATERMARKS, HOLDS)
    return tuple(entry for group in groups for entry in found.select(group=group))


def _entries(group: str) -> list[EntryPoint]:
    return [entry for entry in _installed(tuple(sys.path)) if entry.group == group]


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise BrokenPlugin(
            f"the entry point {entry.group} {entry.name} = {entry.value} cannot be loaded: {error}"
        ) from error


def _all(group: str, names: Collection[str] | None = None) -> list[tuple[str, Any]]:
    # A development install next to a regular one lists each entry twice.
    found = {entry.name: entry for entry in _entries(group) if names is None or entry.name in names}
    return [(name, _load(entry)) for name, entry in sorted(found.items())]


def handlers() -> list[type[Handler]]:
    """Return every handler class.

    :raises BrokenPlugin: a class cannot be loaded, is no handler, or has the wrong name
    """
    return handlers_named(handler_names())


def handler_names() -> list[str]:
    """Return the name of every handler; import no handler."""
    return sorted({entry.name for entry in _entries(HANDLERS)})


def handlers_named(names: Collection[str]) -> list[type[Handler]]:
    """Return the handler classes with these names; import no other class. Omit names that no handler has.

    :raises BrokenPlugin: as :func:`handlers`
    """
    classes: list[type[Handler]] = []
    for name, loaded in _all(HANDLERS, names):
        if not (isinstance(loaded, type) and issubclass(loaded, Handler) and loaded.name == name):
            raise BrokenPlugin(f"the entry point {HANDLERS} {name} is not a Handler named {name!r}")
        classes.append(loaded)
    return classes


def brokers() -> list[Callable[[Resources], Iterable[Broker]]]:
    return [loaded for _name, loaded in _all(BROKERS)]


def options() -> dict[str, Sequence[cfg.Opt]]:
    """Return the configuration options that several plugins share, by group."""
    return {group: opts for _name, loaded in _all(OPTIONS) for group, opts in loaded().items()}


def demos() -> dict[str, type[Demo]]:
    return dict(_all(DEMOS))


def checks() -> list[tuple[str, Check]]:
    return _all(CHECKS)


def watermarks() -> list[Watermarks]:
    return [loaded for _name, loaded in _all(WATERMARKS)]


def holds() -> list[HoldSources]:
    return [loaded for _name, loaded in _all(HOLDS)]


def inventory_names() -> list[str]:
    return sorted({entry.name for entry in _entries(INVENTORIES)})


def inventory(name: str) -> type[Inventory]:
    """Return the :class:`~handlers.base.Inventory` with this name.

    :raises LookupError: there is none
    :raises BrokenPlugin: the class cannot be loaded
    """
    for entry in _entries(INVENTORIES):
        if entry.name == name:
            loaded: type[Inventory] = _load(entry)
            return loaded
    raise LookupError(name)
