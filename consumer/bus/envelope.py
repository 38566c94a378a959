"""From the bytes of a message to an event, or to the reason why there is none.

Most messages on a notification queue are of types nobody asked for. Parsing them would cost most of the consumer's
time, so :class:`Sieve` recognises them by the shape that oslo.messaging gives every notification: the members come in a
fixed order (``Notifier._notify`` builds the dictionary, ``serialize_msg`` the envelope), and the event type stands before
anything that could imitate it. The shape is anchored at the first byte and checked at the last one: an envelope ends in
``}"}``, and a quote that is not escaped cannot occur inside it, so a message cut off on its way never ends like this.
Whatever does not have the shape exactly (another driver, another order, a broken or foreign message) is parsed in full.
So the short cut can only ever drop what is a notification, is complete, and is of a type that nobody wants.

Both drivers of oslo.messaging are understood: ``messagingv2`` (``{"oslo.version": "2.0", "oslo.message": "<JSON>"}``) and
``messaging`` (the notification itself).

Pure functions; no I/O. Nothing but :class:`Undecodable` is raised for any input.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import orjson

from consumer.bus.formats import Undecodable, format_of, normalise, normalise_payload, raw_names
from handlers.base import Event

__all__ = ["Sieve", "Undecodable", "decode"]

#: RabbitMQ 4 refuses larger messages by default (``max_message_size``); no notification comes near it.
MAX_BODY = 16 * 1024 * 1024

#: ``event_type`` is a key of history, metrics and the journal's index: a name, not a text.
_MAX_NAME = 255

#: How an enveloped notification of oslo.messaging begins, up to its event type and the start of its payload.
_HEAD = re.compile(
    rb'\{"oslo\.version": ?"2\.[0-9]{1,4}", ?"oslo\.message": ?"\{'
    rb'\\"message_id\\": ?\\"[^"\\]*\\", ?'
    rb'\\"publisher_id\\": ?(?:null|\\"[^"\\]*\\"), ?'
    rb'\\"event_type\\": ?\\"([A-Za-z0-9_.:-]{1,255})\\", ?'
    rb'\\"priority\\": ?\\"[A-Za-z]+\\", ?'
    rb'\\"payload\\": ?'
)
_TAIL = b'}"}'


class Sieve:
    """Picks the wanted events out of a stream of messages.

    :param wanted: normalised event types
    """

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._raw = frozenset(name.encode() for name in raw_names(wanted))

    def event(self, body: bytes, broker: str) -> Event | None:
        """Return the event in ``body``, or None when it is a notification that nobody asked for.

        :raises Undecodable: when it is neither
        """
        head = _HEAD.match(body)
        if head is not None and head[1] not in self._raw and body.endswith(_TAIL) and len(body) <= MAX_BODY:
            return None
        notification = _notification(body)
        name = _event_type(notification)
        if normalise(name) not in self._wanted:
            return None
        return _event(notification, name, broker)


def decode(body: bytes, broker: str) -> Event:
    """Return the event in ``body``, whatever its type.

    :param broker: the name of the broker it came from
    :raises Undecodable: when there is none
    """
    notification = _notification(body)
    return _event(notification, _event_type(notification), broker)


def _notification(body: bytes) -> dict[str, Any]:
    """Return the notification, out of its envelope if it has one."""
    if len(body) > MAX_BODY:
        raise Undecodable(f"the message has {len(body)} bytes; {MAX_BODY} at most are read")
    outer = _dictionary(body, "the message")
    if "oslo.version" not in outer and "oslo.message" not in outer:
        return outer
    version, message = outer.get("oslo.version"), outer.get("oslo.message")
    if not isinstance(version, str) or version.partition(".")[0] != "2":
        raise Undecodable(f"the envelope has oslo.version {str(version)[:20]!r}; this release understands 2.x")
    if not isinstance(message, str):
        raise Undecodable("the envelope's oslo.message is not a text")
    return _dictionary(message, "the notification in the envelope")


def _dictionary(text: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:  # JSONDecodeError is a ValueError; UTF-8 errors are too
        raise Undecodable(f"{what} is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise Undecodable(f"{what} is not a JSON object but a {type(value).__name__}")
    return value


def _event_type(notification: dict[str, Any]) -> str:
    if "event_type" not in notification:
        raise Undecodable("there is no event_type, so this is not a notification")
    name = notification["event_type"]
    if not isinstance(name, str):
        raise Undecodable(f"event_type is not a text but a {type(name).__name__}")
    if not 0 < len(name) <= _MAX_NAME:
        raise Undecodable(f"event_type has {len(name)} characters; a name has 1 to {_MAX_NAME}")
    return name


def _event(notification: dict[str, Any], name: str, broker: str) -> Event:
    payload = notification.get("payload")
    if not isinstance(payload, dict):
        raise Undecodable(f"the payload of {name} is not a JSON object but a {type(payload).__name__}")
    return Event(
        type=normalise(name),
        payload=normalise_payload(name, payload),
        id=_text(notification.get("message_id")),
        publisher=_text(notification.get("publisher_id")),
        sent_at=_time(notification.get("timestamp")),
        broker=broker,
        format=format_of(name, payload),
    )


def _text(value: Any) -> str:
    """Return what serves tracing only; a publisher that sends something else there loses nothing but that."""
    return value[:_MAX_NAME] if isinstance(value, str) else ""


def _time(value: Any) -> datetime | None:
    """Read ``YYYY-MM-DD HH:MM:SS.ffffff``, which oslo.messaging writes in UTC without saying so."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
