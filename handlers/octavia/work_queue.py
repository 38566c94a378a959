"""Octavia's work queue: whether a request for a load balancer still waits, and whether a worker would take it.

The API sets a load balancer to PENDING_* and sends a request to the queue ``octavia_provisioning_v2``. If stackmend healed
before a worker takes the request, two flows would run and create two amphorae. So three facts must hold before any change:

- Octavia has no jobboard. With one, a worker can resume a dead worker's flow at any time.
- The queue is empty, and a worker consumes it.
- Fewer requests are open than one worker has threads. A worker takes every message at once. Messages without a thread wait
  inside the worker, where no queue shows them (``oslo_messaging/_drivers/amqpdriver.py``, ``oslo_messaging/server.py``).

The queue does not show a flow that has begun. The age of the rows excludes such a flow (:mod:`handlers.octavia.flow_times`).

Source: ``TOPIC_AMPHORA_V2`` in ``octavia/common/constants.py``; ``[oslo_messaging] topic`` is for an older provider.
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

#: threads of one worker where ``[DEFAULT] executor_thread_pool_size`` is not set (``oslo_messaging/server.py``)
THREADS = 64


class WorkQueue:
    """Octavia's queue on Octavia's broker; safe to share between threads.

    :param refusal: why the queue proves nothing; empty when the queue can prove that no request waits
    :param threads: requests that one worker runs at the same time
    """

    def __init__(self, depth: Callable[[], QueueDepth], refusal: str = "", threads: int = THREADS) -> None:
        self._depth = depth
        self.refusal = refusal
        self._threads = threads

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: when Octavia's files are malformed"""
        files = options.files(resources.conf)
        refusal = _jobboard(resources, files) or _flows(files)
        if refusal:
            return cls(_unknown, refusal)
        url = files.get("DEFAULT", "transport_url") or resources.conf[options.GROUP].transport_url
        if not url:
            return cls(_unknown, f"the state of Octavia's work queue is unknown: {files} has no transport_url")
        broker = Broker("octavia", url, (), tls_options(files))
        return cls(lambda: resources.bus.queue_depth(broker, QUEUE), threads=_threads(files))

    def prove_idle(self, requests: int) -> None:
        """Return only when no request waits and a worker would take one.

        :param requests: load balancers and amphorae whose state allows an open request
        :raises InFlight: when requests wait, or may wait inside a worker
        :raises Unavailable: when the broker does not answer, or no worker consumes the queue
        """
        depth = self._depth()
        if depth.messages:
            raise InFlight(f"{depth.messages} requests wait for Octavia's workers", 30.0)
        if not depth.consumers:
            raise Unavailable("octavia-worker", f"no worker consumes the queue {QUEUE}; requests wait until one does")
        if requests >= self._threads:
            raise InFlight(
                f"{requests} requests are open, and some may wait inside a worker of {self._threads} threads", 60.0
            )


def _jobboard(resources: Resources, files: ServiceFiles) -> str:
    """Return why a jobboard may resume flows; empty where Octavia certainly has no jobboard.

    A missing option proves nothing, because a copy of ``octavia.conf`` may lack its group.
    """
    has_jobboard = resources.conf[options.GROUP].jobboard
    if has_jobboard is None:
        value = files.get("task_flow", "jobboard_enabled")
        if value is None:
            return (
                "it is unknown whether Octavia has a jobboard: write [octavia] jobboard = false in stackmend's configuration, "
                f"or [task_flow] jobboard_enabled = False in {files}"
            )
        has_jobboard = _boolean(value, f"{files}: [task_flow] jobboard_enabled")
    return "Octavia has a jobboard: another worker resumes the flow of a worker that died" if has_jobboard else ""


def _flows(files: ServiceFiles) -> str:
    """Return why a row's age does not exclude a flow; empty where the files have the flows' retry options."""
    if files.has_section("haproxy_amphora"):
        return ""
    return f"the longest time of a flow is unknown: {files} has no [haproxy_amphora]; copy that group from Octavia's own file"


def _threads(files: ServiceFiles) -> int:
    value = files.get("DEFAULT", "executor_thread_pool_size")
    if value is None:
        return THREADS
    if not value.isdecimal():
        raise ConfigError(f"{files}: [DEFAULT] executor_thread_pool_size = {value} is not a number")
    return int(value)


def _boolean(value: str, name: str) -> bool:
    try:
        return bool(types.Boolean()(value))
    except ValueError:
        raise ConfigError(f"{name} = {value} is neither true nor false") from None


def _unknown() -> QueueDepth:
    raise Unavailable("octavia-broker", "the place of Octavia's work queue is unknown")
