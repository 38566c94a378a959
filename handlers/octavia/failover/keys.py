"""Finds the amphora that a notification of Nova names.

Octavia publishes nothing when an amphora fails. Nova's notifications are untrusted: a user's server with an amphora's name
causes only an inspection.

Octavia names its servers ``amphora-<id of the amphora>``. With ``[nova] random_amphora_name_length``, the name is ``a`` with
random capitals and digits (``octavia/compute/drivers/nova_driver.py``). Then the key names the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from uuid import UUID

from handlers.base import Event, Key
from handlers.octavia.cloud_objects import AMPHORA_PREFIX

_RANDOM = re.compile(r"a[A-Z0-9]+")
#: the states in ``instance.update`` of a server that has failed, and the tasks of one that is about to stop
_LOST_STATES = frozenset({"error", "deleted", "soft-delete", "stopped"})
_LEAVING_TASKS = frozenset({"deleting", "soft-deleting", "powering-off"})


# No trigger: create.error and compute_task.build_instances.error, because Octavia reverts such a build; pause, rebuild and
# evacuation, because the server is ACTIVE afterwards.


def amphora(event: Event) -> Key | None:
    """Return the key of the amphora that a server's name contains.

    For a random name, return the server's key; for other names, None.
    """
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
    """Return the key of :func:`amphora` if ``instance.update`` shows a failed, stopped or deleted server; otherwise None."""
    return amphora(event) if _updated(event).get("state") in _LOST_STATES else None


def leaving_amphora(event: Event) -> Key | None:
    """Return the key of :func:`amphora` if ``instance.update`` shows that Nova stops or deletes the server; otherwise None."""
    update = _updated(event)
    leaving = update.get("new_task_state") in _LEAVING_TASKS and update.get("state") not in _LOST_STATES
    return amphora(event) if leaving else None


def _updated(event: Event) -> Mapping[str, object]:
    update = event.payload.get("state_update")
    return update if isinstance(update, dict) else {}
