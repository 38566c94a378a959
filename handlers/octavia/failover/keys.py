"""From Nova's notifications about servers to amphorae.

Octavia publishes nothing when an amphora fails. Nova's notifications are untrusted: a user's server with the name of an amphora
causes one inspection, and no more.

Octavia names its servers ``amphora-<id of the amphora>``. With ``[nova] random_amphora_name_length`` the name is an ``a`` and
random capitals and digits (``octavia/compute/drivers/nova_driver.py``); then the key is the server.

Not used: ``create.error`` and ``compute_task.build_instances.error``, because Octavia reverts that build; pause, rebuild and
evacuation, because the server is ACTIVE afterwards. The sweep finds an amphora that these lose.
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


def amphora(event: Event) -> Key | None:
    """Return the key of an amphora, or of its server where the name is random; None for other servers."""
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
    """Return the key of an amphora whose server has failed or is gone after an update; None for any other update."""
    return amphora(event) if _updated(event).get("state") in _LOST_STATES else None


def leaving_amphora(event: Event) -> Key | None:
    """Return the key of an amphora whose server is about to stop or to go; None for any other update."""
    update = _updated(event)
    leaving = update.get("new_task_state") in _LEAVING_TASKS and update.get("state") not in _LOST_STATES
    return amphora(event) if leaving else None


def _updated(event: Event) -> Mapping[str, object]:
    update = event.payload.get("state_update")
    return update if isinstance(update, dict) else {}
