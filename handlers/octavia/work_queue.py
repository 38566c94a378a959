"""Octavia's work queue: whether a request for a load balancer still waits, and whether a worker would take it.

A load balancer in PENDING_* may wait for a worker: requests stay in the queue ``octavia_provisioning_v2`` until one runs.
Changing such a load balancer makes two flows run at once, which leaves it with two amphorae. So the queue must be empty and
must have a consumer before anything changes. RabbitMQ answers both to a passive declaration, which changes nothing.

An empty queue does not exclude a flow at work: Octavia takes the message before the flow begins
(``oslo_messaging/rpc/server.py``). Ages cover that. With a jobboard (``[task_flow] jobboard_enabled``) another worker
resumes the flow of a dead one at any time, so the queue proves nothing.

Source: ``TOPIC_AMPHORA_V2`` in ``octavia/common/constants.py``; ``[oslo_messaging] topic`` names the queue of an older
provider only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from oslo_config import types

from handlers.access.rabbit_options import tls_options
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Broker, InFlight, QueueDepth, Resources, Unavailable
from handlers.octavia import options

QUEUE = "octavia_provisioning_v2"


class WorkQueue:
    """Octavia's queue on its own broker; safe to share between threads.

    :param depth: asks the broker for the queue
    :param refusal: why the queue proves nothing; empty when it does
    """

    def __init__(self, depth: Callable[[], QueueDepth], refusal: str = "") -> None:
        self._depth = depth
        self.refusal = refusal

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it from Octavia's files, the only place that names a jobboard.

        :raises ConfigError: when the files are malformed
        """
        files = options.files(resources.conf)
        if not files.files:
            return cls(_unknown, "whether Octavia's work queue is empty is not known: set [octavia] config_file")
        if _is_true(files.get("task_flow", "jobboard_enabled"), "[task_flow] jobboard_enabled", files):
            return cls(_unknown, "Octavia has a jobboard: another worker resumes the flow of a worker that died")
        url = files.get("DEFAULT", "transport_url") or resources.conf[options.GROUP].transport_url
        if not url:
            return cls(_unknown, f"whether Octavia's work queue is empty is not known: {files} has no transport_url")
        broker = Broker("octavia", url, (), tls_options(files))
        return cls(lambda: resources.bus.queue_depth(broker, QUEUE))

    def prove_idle(self) -> None:
        """Return when no request waits and a worker would take one.

        :raises InFlight: when requests wait
        :raises Unavailable: when the broker does not answer, or no worker consumes the queue
        """
        depth = self._depth()
        if depth.messages:
            raise InFlight(f"{depth.messages} requests wait for Octavia's workers", 30.0)
        if not depth.consumers:
            raise Unavailable("octavia-worker", f"no worker consumes the queue {QUEUE}; requests wait until one does")


def _unknown() -> QueueDepth:
    raise Unavailable("octavia-broker", "it is not known where Octavia's work queue is")


def _is_true(value: str | None, name: str, files: ServiceFiles) -> bool:
    """Read a boolean as Octavia's own configuration does."""
    try:
        return bool(types.Boolean()(value or "false"))
    except ValueError:
        raise ConfigError(f"{files}: {name} = {value} is neither true nor false") from None
