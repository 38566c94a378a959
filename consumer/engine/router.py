"""Events to hints: one look into a dict by event type; most events end there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from consumer.journal.work import Hint, Priority
from handlers.base import Event, Handler, Key, Trigger


class Unroutable(Exception):
    """A handler could not take a key out of a wanted event: its payload is not what that event type promises."""


class Router:
    """Knows which handlers want which events."""

    def __init__(self, handlers: Iterable[Handler | type[Handler]]) -> None:
        wanted: defaultdict[str, list[tuple[str, Trigger]]] = defaultdict(list)
        for handler in handlers:
            for trigger in handler.triggers:
                wanted[trigger.event].append((handler.name, trigger))
        self._wanted: Mapping[str, list[tuple[str, Trigger]]] = dict(wanted)

    @property
    def wanted(self) -> frozenset[str]:
        """The event types that some handler wants."""
        return frozenset(self._wanted)

    def route(self, event: Event) -> list[Hint]:
        """Return the hints that an event gives; none for most.

        :raises Unroutable: when a payload lacks what its type promises
        """
        return [
            hint
            for name, trigger in self._wanted.get(event.type, ())
            if (hint := _hint(name, trigger, event)) is not None
        ]


def _check(key: Key) -> None:
    """Make sure that what came out of a payload can be a key: printable text of a name's length."""
    if not isinstance(key.id, str):
        raise TypeError(f"the identity is a {type(key.id).__name__}")
    if not 0 < len(key.id) <= key.MAX_ID:
        raise ValueError(f"an identity of {len(key.id)} characters")
    if not key.id.isprintable():
        raise ValueError("an identity that cannot be printed")


def _hint(name: str, trigger: Trigger, event: Event) -> Hint | None:
    try:
        key = trigger.key(event)
        if key is None:
            return None
        _check(key)
    except Exception as error:
        raise Unroutable(f"{event.type}: {name} finds no key in it: {type(error).__name__} {error}") from error
    sent = event.sent_at.timestamp() if event.sent_at else None
    return Hint(name, key, Priority.EVENT, event.type, trigger.after, event.id, sent)
