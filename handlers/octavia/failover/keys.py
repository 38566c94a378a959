"""Amphorae out of Nova's notifications about their servers.

Octavia tells nobody that an amphora failed, so Nova's words about its server are the hints that come at once. What comes in
is untrusted: a key names what to look at, and a user who names a server like an amphora brings about one look.

Octavia names its servers ``amphora-<id of the amphora>``, or, with ``[nova] random_amphora_name_length``, an ``a`` and random
capitals and digits (``octavia/compute/drivers/nova_driver.py``); the latter say which server, and Octavia's
database then says which amphora that is. Notifications about other servers end here.

What is not listened to, because it proves nothing at the time: ``create.error`` and ``compute_task.build_instances.error``
(a replacement that Octavia still builds, and undoes by itself); a pause, a rebuild or an evacuation (the server is
ACTIVE afterwards, or may be again at once; an amphora that was lost by it falls silent, which the watch sees); a host
that is disabled or dead, of which Nova tells nothing for each server (silence, too).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from uuid import UUID

from handlers.base import Event, Key
from handlers.octavia.cloud_objects import AMPHORA_PREFIX

_RANDOM = re.compile(r"a[A-Z0-9]+")
#: what ``instance.update`` says of a server that has failed, and of one that is about to go
_LOST_STATES = frozenset({"error", "deleted", "soft-delete", "stopped"})
_LEAVING_TASKS = frozenset({"deleting", "soft-deleting", "powering-off"})


def amphora(event: Event) -> Key | None:
    """The amphora, or its server where the name does not say which amphora it is; None for other servers."""
    name = event.payload.get("display_name")
    if not isinstance(name, str):
        return None
    if name.startswith(AMPHORA_PREFIX):
        try:
            return Key("amphora", str(UUID(name.removeprefix(AMPHORA_PREFIX))))
        except ValueError:
            return None
    if _RANDOM.fullmatch(name):
        return Key("server", str(UUID(event.payload["uuid"])))
    return None


def lost_amphora(event: Event) -> Key | None:
    """The same, of an update that says that the server has failed or is gone; None for any other update."""
    return amphora(event) if _updated(event).get("state") in _LOST_STATES else None


def leaving_amphora(event: Event) -> Key | None:
    """The same, of an update that says that the server is about to stop or to go; None for any other update."""
    update = _updated(event)
    leaving = update.get("new_task_state") in _LEAVING_TASKS and update.get("state") not in _LOST_STATES
    return amphora(event) if leaving else None


def _updated(event: Event) -> Mapping[str, object]:
    update = event.payload.get("state_update")
    return update if isinstance(update, dict) else {}
