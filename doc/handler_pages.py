"""Writes the reStructuredText of a handler's page, and of the list of handlers, from the code.

A handler is described once. Its module docstring is the manual: a first paragraph, then paragraphs that begin with a bold
heading (``**What drifts.** A host runs ...``). Its class attributes hold the rest: options, events, keys, rights.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import indent

from doc.handler_rights import privileges
from doc.rst import codes, list_table
from handlers.base import Handler, Mode, Role

_HEADING = re.compile(r"\*\*(?P<title>[^*]+)\.\*\*\s*(?P<text>.*)", re.DOTALL)
_SOURCES = re.compile(r"Sources: (?P<text>.*)", re.DOTALL)
_DEFAULTS = {Mode.OFF: "off", Mode.AUDIT: "reports", Mode.HEAL: "heals"}


@dataclass(frozen=True, slots=True)
class Section:
    """One heading of a manual and its text.

    :param title: empty for the first paragraphs
    """

    title: str
    text: str


def sections(manual: str) -> list[Section]:
    """Split a module docstring at its bold headings and at its sources."""
    found = [Section("", "")]
    for paragraph in inspect.cleandoc(manual).split("\n\n"):
        if heading := _HEADING.match(paragraph):
            found.append(Section(heading["title"], heading["text"]))
        elif sources := _SOURCES.match(paragraph):
            found.append(Section("Sources", sources["text"]))
        else:
            last = found.pop()
            found.append(Section(last.title, f"{last.text}\n\n{paragraph}".strip()))
    return found


def manual(handler: type[Handler]) -> str:
    """Return the docstring of the module that defines a handler."""
    return sys.modules[handler.__module__].__doc__ or ""


def page(handler: type[Handler]) -> str:
    """Return the text below the title of a handler's page."""
    first, *rest = sections(manual(handler))
    parts = [first.text, list_table(facts(handler).items(), ":stub-columns: 1", ":widths: 20 80")]
    parts.append("What proves each heal, and how to undo it: :doc:`/safety`.")
    parts += [f"{section.title}\n{'=' * len(section.title)}\n\n{section.text}" for section in rest]
    return "\n\n".join(parts)


def facts(handler: type[Handler]) -> dict[str, str]:
    """Return the class attributes of a handler as an operator reads them."""
    group, name = handler.group, handler.name
    interval = f"``[{group}] {handler.interval_option or f'{name}_interval'}``"
    found = {
        "Mode": f"``[{group}] {name}_mode``, ``{handler.default_mode}`` by default",
        "Sweeps": interval if handler.interval_option else f"{interval}, {handler.default_interval} s by default",
        "Events": codes(sorted({trigger.event for trigger in handler.triggers})) or "none; sweeps only",
        "Keys": codes(f"{kind}:..." for kind in handler.kinds),
        "Heals": codes(sorted(handler.healable_problems)) or "nothing; it reports",
        "Writes": privileges(handler) or "no database",
    }
    if handler.confirm_after:
        found["Confirmation"] = f"found twice, unchanged, {handler.confirm_after:g} s apart"
    if handler.default_heals_per_hour is not None:
        found["Budget"] = f"``[{group}] {name}_heals_per_hour``, {handler.default_heals_per_hour} by default"
    if handler.requires:
        found["Requires"] = codes(handler.requires)
    if handler.relies_on:
        found["Relies on"] = codes(handler.relies_on)
    if handler.follows:
        found["Follows"] = codes(handler.follows)
    if roles := [*map(_role, handler.roles.inspect), *(f"{_role(one)}, to heal" for one in handler.roles.heal)]:
        found["Roles"] = "; ".join(roles)
    if handler.cost:
        found["Cost"] = handler.cost
    return found


def _role(role: Role) -> str:
    return f"{codes(role.any_of, ' or ')} for {role.purpose}"


def listing(handlers: Iterable[type[Handler]]) -> str:
    """Return a table of handlers, each with a link to its page."""
    rows = [(f":doc:`{one.name}`", one.title, _DEFAULTS[one.default_mode]) for one in handlers]
    table = list_table([("Handler", "What it does", "By default"), *rows], ":header-rows: 1")
    names = "\n".join(one.name for one in handlers)
    return f"{table}\n\n.. toctree::\n   :hidden:\n\n{indent(names, '   ')}"


def of_service(service: str, known: Mapping[str, type[Handler]]) -> list[type[Handler]]:
    """Return the handlers of ``nova`` or ``octavia`` that belong to this source tree."""
    return [handler for handler in known.values() if handler.__module__.startswith(f"handlers.{service}.")]


def stub(name: str) -> str:
    """Return the source of a page that holds no more than the generated text."""
    line = "=" * len(name)
    return f"{line}\n{name}\n{line}\n\n.. handler:: {name}\n"
