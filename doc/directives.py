"""Replaces the lines of a page that stand for generated text, such as ``.. handler:: discover_hosts``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from doc import handler_pages, handler_rights
from handlers.base import Handler, Mode

LINE = re.compile(r"^\.\. (?P<name>handler(?:-list|-grants|-rights|-roles)?)::(?: (?P<argument>\w+))?$", re.MULTILINE)
#: The handlers by name.
Known = Mapping[str, type[Handler]]


class UnknownArgument(LookupError):
    """A line names a handler, a service or a mode that does not exist."""


def expand(source: str, handlers: Iterable[type[Handler]]) -> str:
    """Replace these lines in the source of a page.

    :raises UnknownArgument: when a line names a handler, a service or a mode that does not exist
    """
    known = {handler.name: handler for handler in handlers}

    def text(line: re.Match[str]) -> str:
        return DIRECTIVES[line["name"]](known, line["argument"] or "")

    return LINE.sub(text, source)


def _page(known: Known, name: str) -> str:
    if name not in known:
        raise UnknownArgument(f"handler:: {name}: no entry point provides this handler")
    return handler_pages.page(known[name])


def _list(known: Known, service: str) -> str:
    ours = handler_pages.of_service(service, known)
    if not ours:
        raise UnknownArgument(f"handler-list:: {service}: no entry point provides a handler of this service")
    return handler_pages.listing(ours)


def _grants(known: Known, mode: str) -> str:
    if mode not in (Mode.AUDIT, Mode.HEAL):
        raise UnknownArgument(f"handler-grants:: {mode}: write audit or heal")
    return handler_rights.sql(known.values(), Mode(mode))


DIRECTIVES: Mapping[str, Callable[[Known, str], str]] = {
    "handler": _page,
    "handler-list": _list,
    "handler-grants": _grants,
    "handler-rights": lambda known, _argument: handler_rights.table(known.values()),
    "handler-roles": lambda known, _argument: handler_rights.roles(known.values()),
}
