"""Writes the reStructuredText of a handler's page, and of the list of handlers, from the code.

A handler is described once. Its module docstring is the manual: a first paragraph, then paragraphs that begin with a bold
heading (``**What drifts.** A host runs ...``). Its class attributes hold the rest: options, events, keys, rights.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import indent

from handlers.base import Handler

#: The two lines that a page may contain, each with the name of a handler or of a service.
DIRECTIVE = re.compile(r"^\.\. (?P<what>handler|handlers):: (?P<name>\w+)$", re.MULTILINE)
_HEADING = re.compile(r"\*\*(?P<title>[^*]+)\.\*\*\s*(?P<text>.*)", re.DOTALL)
_SOURCES = re.compile(r"Sources: (?P<text>.*)", re.DOTALL)
_DEFAULTS = {"off": "off", "audit": "reports", "ask": "asks", "heal": "heals"}


class UnknownHandler(LookupError):
    """A page names a handler or a service that no entry point provides."""


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
    parts = [first.text, _table(facts(handler)), "What proves each heal, and how to undo it: :doc:`/safety`."]
    parts += [f"{section.title}\n{'=' * len(section.title)}\n\n{section.text}" for section in rest]
    return "\n\n".join(parts)


def facts(handler: type[Handler]) -> dict[str, str]:
    """Return the class attributes of a handler as an operator reads them."""
    group, name = handler.group, handler.name
    interval = f"``[{group}] {handler.interval_option or f'{name}_interval'}``"
    found = {
        "Mode": f"``[{group}] {name}_mode``, ``{handler.default_mode}`` by default",
        "Sweeps": interval if handler.interval_option else f"{interval}, {handler.default_interval} s by default",
        "Events": _codes(sorted({trigger.event for trigger in handler.triggers})) or "none; sweeps only",
        "Keys": _codes(f"{kind}:..." for kind in handler.kinds),
    }
    if handler.confirm_after:
        found["Confirmation"] = f"found twice, unchanged, {handler.confirm_after:g} s apart"
    if handler.requires:
        found["Requires"] = _codes(handler.requires)
    if handler.default_heals_per_hour is not None:
        found["Budget"] = f"``[{group}] {name}_heals_per_hour``, {handler.default_heals_per_hour} by default"
    if handler.cost:
        found["Cost"] = handler.cost
    return found


def listing(handlers: Iterable[type[Handler]]) -> str:
    """Return a table of handlers, each with a link to its page."""
    rows = [(f":doc:`{one.name}`", one.title, _DEFAULTS[one.default_mode]) for one in handlers]
    names = "\n".join(one.name for one in handlers)
    toctree = f".. toctree::\n   :hidden:\n\n{indent(names, '   ')}"
    return f"{_list_table(('Handler', 'What it does', 'By default'), rows)}\n\n{toctree}"


def expand(source: str, handlers: Iterable[type[Handler]]) -> str:
    """Replace the directives in the source of a page.

    :raises UnknownHandler: when a directive names a handler or a service that no entry point provides
    """
    known = {handler.name: handler for handler in handlers}

    def replaced(directive: re.Match[str]) -> str:
        name = directive["name"]
        if directive["what"] == "handler" and name in known:
            return page(known[name])
        if directive["what"] == "handlers" and (ours := of_service(name, known)):
            return listing(ours)
        raise UnknownHandler(f"{directive[0]}: no entry point provides it")

    return DIRECTIVE.sub(replaced, source)


def of_service(service: str, known: Mapping[str, type[Handler]]) -> list[type[Handler]]:
    """Return the handlers of ``nova`` or ``octavia`` that belong to this source tree."""
    return [handler for handler in known.values() if handler.__module__.startswith(f"handlers.{service}.")]


def stub(name: str) -> str:
    """Return the source of a page that holds no more than the generated text."""
    line = "=" * len(name)
    return f"{line}\n{name}\n{line}\n\n.. handler:: {name}\n"


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"``{word}``" for word in words)


def _table(rows: Mapping[str, str]) -> str:
    return _list_table((), rows.items(), ":stub-columns: 1", ":widths: 20 80")


def _list_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], *options: str) -> str:
    return "\n".join(_lines(header, rows, options))


def _lines(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], options: tuple[str, ...]) -> Iterator[str]:
    yield ".. list-table::"
    yield from (f"   {option}" for option in options)
    if header:
        yield "   :header-rows: 1"
    yield ""
    for first, *others in [header, *rows] if header else rows:
        yield f"   * - {first}"
        yield from (f"     - {cell}" for cell in others)
