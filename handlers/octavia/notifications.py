"""Finds the load balancer that a notification of Octavia names.

The last task of a flow that creates, updates or deletes a load balancer sends ``octavia.loadbalancer.create.end``,
``update.end`` or ``delete.end``. The payload is the load balancer as the provider driver sees it, without a status. Octavia
sends nothing about amphorae, failovers or failures.

Sources: ``octavia/controller/worker/v2/tasks/notification_tasks.py``,
``octavia/controller/worker/v2/flows/load_balancer_flows.py``, ``octavia/api/drivers/utils.py``
(``db_loadbalancer_to_provider_loadbalancer``).
"""

from __future__ import annotations

from uuid import UUID

from handlers.base import Event, Key

CREATED = "octavia.loadbalancer.create.end"
UPDATED = "octavia.loadbalancer.update.end"
DELETED = "octavia.loadbalancer.delete.end"


def load_balancer(event: Event) -> Key:
    return Key("load-balancer", str(UUID(event.payload["loadbalancer_id"])))
