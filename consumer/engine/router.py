"""Turns events into hints for the handlers that want the events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from consumer.journal.work import Hint, Priority
from handlers.base import Event, Handler, Key, Trigger


class Unroutable(Exception):
    """A handler finds no valid key in an event that it wants, because the payload is not as documented."""


class Router:
    def __init__(self, handlers: Iterable[Handler | type[Handler]]) -> None:
        wanted: defaultdict[str, list[tuple[str, Trigger]]] = defaultdict(list)
        for handler in handlers:
            for trigger in handler.triggers:
                wanted[trigger.event].append((handler.name, trigger))
        self._wanted: Mapping[str, list[tuple[str, Trigger]]] = dict(wanted)

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self._wanted)

    def route(self, event: Event) -> list[Hint]:
        """Return a hint for each trigger that finds a key in the event.

        :raises Unroutable: a trigger fails, or its key is not valid
        """
        return [
            hint
            for name, trigger in self._wanted.get(event.type, ())
            if (hint := _hint(name, trigger, event)) is not None
        ]


def _check(key: Key) -> None:
    """Raise ValueError if a key's id is not printable: payloads are untrusted, and people read keys in a terminal."""
    if not key.id.isprintable():
        raise ValueError("its id is not printable")


def _hint(name: str, trigger: Trigger, event: Event) -> Hint | None:
    try:
        key = trigger.key(event)
        if key is None:
            return None
        _check(key)
    except Exception as error:
        raise Unroutable(f"{event.type}: {name} finds no key in it: {type(error).__name__} {error}") from error
    sent = event.sent_at.timestamp() if event.sent_at else None
    priority = Priority.PERIODIC if trigger.periodic else Priority.EVENT
    return Hint(name, key, priority, event.type, trigger.after, event.id, sent)
