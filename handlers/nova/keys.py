"""Makes keys from notifications. Payloads are untrusted, so each function checks them, and returns only a key."""

from __future__ import annotations

import re
from uuid import UUID

from handlers.base import Event, Key

_UNMAPPED = re.compile(r"Host '(.{1,255})' is not mapped to any cell")


def compute_host(event: Event) -> Key | None:
    if event.payload.get("binary") != "nova-compute":
        return None
    return _host(event.payload["host"])


def failed_host(event: Event) -> Key | None:
    """Return the key of the host where a build failed, or else of the host that the error message calls unmapped, if any."""
    host = event.payload.get("host")
    if isinstance(host, str) and host:
        return _host(host)
    reason = event.payload.get("reason")
    text = reason.get("exception_message") if isinstance(reason, dict) else reason
    named = _UNMAPPED.search(text) if isinstance(text, str) else None
    return _host(named.group(1)) if named else None


def consumer(event: Event) -> Key | None:
    return Key("consumer", uuid_of(event.payload.get("uuid") or event.payload["instance_uuid"]))


def instance(event: Event) -> Key:
    return Key("instance", uuid_of(event.payload.get("uuid") or event.payload["instance_uuid"]))


def aggregate(event: Event) -> Key | None:
    """Return the key of the event's aggregate. A legacy notification without a uuid gives the key of the host, if any."""
    uuid, host = event.payload.get("uuid"), event.payload.get("host_name")
    if uuid is None and host is None:
        return None
    return _host(host) if uuid is None else Key("aggregate", uuid_of(uuid))


def uuid_of(value: object) -> str:
    """:raises ValueError: the value is not a uuid"""
    if not isinstance(value, str):
        raise ValueError("the notification has no uuid")
    return str(UUID(value))


def _host(value: object) -> Key:
    if not isinstance(value, str):
        raise ValueError("the notification has no host name")
    return Key.parse(f"host:{value}")
