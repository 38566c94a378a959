"""Decodes the bytes of a notification to an event, or raises :class:`Undecodable` and no other error.

Parsing unwanted messages would take most CPU time. So :class:`Sieve` finds the event type with a regular expression at the
start of a message. The sieve drops a complete message (one that ends with ``}"}``) of an unwanted type. oslo.messaging writes
JSON members in a fixed order (``Notifier._notify``, ``serialize_msg``), so no text of the payload can look like the event type.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import orjson

from consumer.bus.formats import Undecodable, format_of, normalise, normalise_payload, raw_names
from handlers.base import Event

__all__ = ["Sieve", "Undecodable", "decode"]

#: Bytes of the largest message that is parsed, unless configured. Parsing takes up to 60 times its size in memory; the largest
#: captured notification has 5 kB.
MAX_BODY = 1024 * 1024

#: Longest event type and message id.
_MAX_NAME = 255

#: The start of an enveloped notification, up to its payload; the group is the event type.
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
    """:param wanted: versioned names of event types
    :param max_body: size of the largest message to parse, in bytes
    """

    def __init__(self, wanted: frozenset[str], max_body: int = MAX_BODY) -> None:
        self._wanted = wanted
        self._max_body = max_body
        self._raw = frozenset(name.encode() for name in raw_names(wanted))

    def event(self, body: bytes, broker: str) -> Event | None:
        """Decode a message; return None for a notification of an unwanted type.

        :raises Undecodable: ``body`` is not a valid notification, or is too large
        """
        head = _HEAD.match(body)
        if head is not None and head[1] not in self._raw and body.endswith(_TAIL) and len(body) <= self._max_body:
            return None
        notification = _notification(body, self._max_body)
        name = _event_type(notification)
        if normalise(name) not in self._wanted:
            return None
        return _event(notification, name, broker)


def decode(body: bytes, broker: str, max_body: int = MAX_BODY) -> Event:
    notification = _notification(body, max_body)
    return _event(notification, _event_type(notification), broker)


def _notification(body: bytes, most: int) -> dict[str, Any]:
    if len(body) > most:
        raise Undecodable(f"the message has {len(body)} bytes, more than the limit of {most}")
    outer = _dictionary(body, "the message")
    if "oslo.version" not in outer and "oslo.message" not in outer:
        return outer
    version, message = outer.get("oslo.version"), outer.get("oslo.message")
    if not isinstance(version, str) or version.partition(".")[0] != "2":
        raise Undecodable(f"the envelope has oslo.version {str(version)[:20]!r}; this release understands 2.x")
    if not isinstance(message, str):
        raise Undecodable("the envelope's oslo.message is not a string")
    return _dictionary(message, "the notification in the envelope")


def _dictionary(text: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise Undecodable(f"{what} is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise Undecodable(f"{what} is not a JSON object but a {type(value).__name__}")
    return value


def _event_type(notification: dict[str, Any]) -> str:
    if "event_type" not in notification:
        raise Undecodable("it has no event_type, so it is not a notification")
    name = notification["event_type"]
    if not isinstance(name, str):
        raise Undecodable(f"event_type is not a string but a {type(name).__name__}")
    if not 0 < len(name) <= _MAX_NAME:
        raise Undecodable(f"event_type has {len(name)} characters; 1 to {_MAX_NAME} are valid")
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
    return value[:_MAX_NAME] if isinstance(value, str) else ""


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
