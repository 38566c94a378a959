"""From Octavia's notifications to load balancers.

Octavia sends three, each as the last task of a flow that succeeded: ``octavia.loadbalancer.create.end``, ``update.end`` and
``delete.end``. The payload is the load balancer as its provider driver sees it, without any status. Nothing is sent about
amphorae, failovers and failures.

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
    """Return the key of the load balancer that Octavia has created, updated or deleted."""
    return Key("load-balancer", str(UUID(event.payload["loadbalancer_id"])))
