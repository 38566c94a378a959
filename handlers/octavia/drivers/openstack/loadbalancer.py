"""The driver's requests to Octavia.

An answer confirms only that Octavia received the request. Octavia's database shows the result. Before each request, the driver
verifies that a worker takes requests (:mod:`handlers.octavia.work_queue`).

Octavia answers 409 while a flow works on the load balancer, and 404 for a DELETED amphora. Octavia deletes an amphora in ERROR
even while the amphora serves a load balancer (``octavia/api/v2/controllers/amphora.py``).
"""

from __future__ import annotations

from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.openstack.api import Api, translated
from handlers.octavia.work_queue import WorkQueue


class OctaviaCalls(Driver):
    load_balancer: Api
    queue: WorkQueue

    def require_failover(self, amphora: str) -> None:
        translated(self.queue.require_worker)
        self.load_balancer.call("GET", f"/v2/octavia/amphorae/{amphora}", f"amphora:{amphora}")

    def failover_amphora(self, amphora: str) -> None:
        translated(self.queue.require_worker)
        self.load_balancer.call("PUT", f"/v2/octavia/amphorae/{amphora}/failover", f"amphora:{amphora}")

    def failover_load_balancer(self, balancer: str) -> None:
        translated(self.queue.require_worker)
        self.load_balancer.call("PUT", f"/v2/lbaas/loadbalancers/{balancer}/failover", f"load-balancer:{balancer}")

    def delete_amphora(self, amphora: str) -> None:
        translated(self.queue.require_worker)
        self.load_balancer.remove(f"/v2/octavia/amphorae/{amphora}", f"amphora:{amphora}")
