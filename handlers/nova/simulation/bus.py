from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any

from handlers.demo import Notification

#: events without a captured sample, each with the captured event that has the same payload class
#: (nova/notifications/objects/instance.py and service.py)
SAME_PAYLOAD: Mapping[str, str] = {
    "service.delete": "service.create",
    "service.update": "service.create",
    "instance.evacuate": "instance.resize_confirm.end",
    "instance.resize_revert.end": "instance.resize_confirm.end",
    "instance.live_migration_post.end": "instance.live_migration_pre.end",
    "instance.live_migration_rollback.end": "instance.live_migration_pre.end",
    "instance.shelve_offload.end": "instance.resize_confirm.end",
    "instance.unshelve.end": "instance.resize_confirm.end",
}


def notification(event: str, publisher: str, data: Mapping[str, Any], sent_at: datetime) -> Notification:
    """Make a notification from a captured notification.

    :param publisher: such as ``nova-compute:<host>``
    :param data: new values of the payload's fields
    :param sent_at: naive UTC
    """
    template = resources.files("handlers.nova").joinpath("notifications", f"{SAME_PAYLOAD.get(event, event)}.json")
    sample = json.loads(template.read_text(encoding="utf-8"))
    body: dict[str, Any] = sample["body"]
    message: dict[str, Any] = body["oslo.message"]
    payload: dict[str, Any] = message["payload"]["nova_object.data"]
    unknown = data.keys() - payload.keys()
    if unknown:
        raise KeyError(f"the payload of {event} has no {', '.join(sorted(unknown))}")
    payload.update(data)
    message.update(
        event_type=event,
        publisher_id=publisher,
        message_id=str(uuid.uuid4()),
        timestamp=sent_at.isoformat(sep=" ", timespec="microseconds"),
        _unique_id=uuid.uuid4().hex,
        _context_request_id=f"req-{uuid.uuid4()}",
        _context_timestamp=sent_at.isoformat(timespec="microseconds"),
    )
    body["oslo.message"] = json.dumps(message)
    return Notification(sample["exchange"], sample["routing_key"], json.dumps(body).encode())
