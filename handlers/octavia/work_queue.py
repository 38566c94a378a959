"""Decides whether a request for a load balancer still waits in Octavia's work queue, and whether a worker takes new requests.

The API sets a load balancer to PENDING_* and sends a request to the queue ``octavia_provisioning_v2``. If stackmend healed the
load balancer before a worker takes the request, two flows would run. So three facts must hold before stackmend heals an object
in PENDING_*:

- Octavia has no jobboard, or the jobboard has no job of the object (:mod:`handlers.octavia.jobboard`). A worker can resume the
  flow of a job at any time.
- The queue is empty, and a worker consumes it. Load balancers of the provider ``amphorav1`` (Octavia 10 to 12) have another
  queue, ``[oslo_messaging] topic``.
- Fewer requests are open than one worker has threads. A worker immediately takes every message off the queue, and a message
  without a thread waits inside the worker (``oslo_messaging/_drivers/amqpdriver.py``, ``oslo_messaging/server.py``).

The queue does not show a flow that has begun. Old rows exclude such a flow (:mod:`handlers.octavia.flow_times`), if
``octavia.conf`` has ``[haproxy_amphora]``. But they do not exclude the flow of a request that waited while no worker ran. So
after stackmend has seen the queue without a worker, the queue proves nothing for the longest time of a flow.

Before stackmend asks Octavia's API for a flow, a worker must consume the queue. Otherwise the request would wait there. The
broker must answer. Otherwise the API would wait with a lock on the load balancer's row, which stops Octavia's health manager
too (``octavia/api/v2/controllers/amphora.py``, ``oslo_messaging/rpc/client.py``).

Sources: ``TOPIC_AMPHORA_V2`` in ``octavia/common/constants.py``; in Octavia 12 ``octavia/controller/queue/v1/consumer.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Self

from oslo_config import types

from handlers.access.rabbit_options import tls_options
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Broker, InFlight, QueueDepth, QueueReader, Refused, Resources, Unavailable
from handlers.octavia import options
from handlers.octavia.flow_times import FlowTimes, flow_times
from handlers.octavia.jobboard.board import Board, UnreadableBoard
from handlers.octavia.jobboard.chosen import board_of

QUEUE = "octavia_provisioning_v2"

#: the provider that has a queue of its own
_OLD_PROVIDER = "amphorav1"

_REMEDY = (
    "write [DEFAULT] transport_url in a file of [octavia] config_file, or [octavia] transport_url in stackmend's "
    "configuration"
)

#: threads of one worker where ``[DEFAULT] executor_thread_pool_size`` is not set (``oslo_messaging/server.py``)
THREADS = 64


class WorkQueue:
    """Octavia's queues on Octavia's broker. Thread-safe.

    :param depth: returns the numbers of messages and consumers of a queue, by the queue's name
    :param refusal: why the queue proves nothing; empty when it can prove that no request waits
    :param threads: number of requests that one worker runs at the same time
    :param old_topic: the queue of the provider ``amphorav1``; empty when unknown
    :param board: Octavia's jobboard; None if Octavia has no jobboard
    :param longest: seconds for which a flow can work without a change to its rows
    :param clock: returns seconds that never run backwards
    """

    def __init__(
        self,
        depth: QueueReader,
        refusal: str = "",
        threads: int = THREADS,
        old_topic: str = "",
        board: Board | None = None,
        longest: float = FlowTimes().longest_silence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._depth = depth
        self.refusal = refusal
        self._threads = threads
        self._old_topic = old_topic
        self.board = board
        self._longest = longest
        self._clock = clock
        #: the time at which stackmend last saw a queue without a worker
        self._abandoned: dict[str, float] = {}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: Octavia's files are malformed"""
        files = options.files(resources.conf)
        refusal, board = "", None
        try:
            board = _jobboard(resources, files)
        except UnreadableBoard as error:
            refusal = str(error)
        refusal = refusal or _flows(files)
        url = files.get("DEFAULT", "transport_url") or resources.conf[options.GROUP].transport_url
        if not url:
            why = f"the state of Octavia's work queue is unknown: {files} has no transport_url; {_REMEDY}"
            return cls(_unknown, refusal or why, board=board)
        broker = Broker("octavia", url, (), tls_options(files))
        return cls(
            resources.bus.queues(broker),
            refusal,
            threads=_threads(files),
            old_topic=files.get("oslo_messaging", "topic") or "",
            board=board,
            longest=flow_times(files).longest_silence,
        )

    def prove_idle(self, requests: int, providers: Collection[str] = ()) -> None:
        """Verify that no request waits in the queues, and that a worker takes new requests.

        :param requests: number of load balancers and amphorae whose request is perhaps still open
        :param providers: the amphora providers that have a load balancer
        :raises InFlight: a request waits in a queue, or perhaps has reached a worker
        :raises Unavailable: the broker does not answer, a queue is unknown, or no worker consumes it
        :raises Refused: the queue proves nothing, for the reason ``refusal``
        """
        if self.refusal:
            raise Refused(self.refusal)
        self._prove_empty(QUEUE)
        if _OLD_PROVIDER in providers:
            if not self._old_topic:
                reason = (
                    f"the queue of provider {_OLD_PROVIDER} is unknown: write [oslo_messaging] topic in octavia.conf"
                )
                raise Unavailable("octavia-worker", reason)
            self._prove_empty(self._old_topic)
        if requests >= self._threads:
            raise InFlight(
                f"{requests} requests are open, and some may wait inside a worker of {self._threads} threads", 60.0
            )

    def job(self, identities: Collection[str]) -> str:
        """Return why a job of the jobboard perhaps works on one of these objects; empty without a reason.

        To miss no job, call :meth:`prove_idle` first: a worker takes a request off the queue before it posts the job.

        :param identities: ids of a load balancer and its amphorae
        :raises Unavailable: the jobboard does not answer
        """
        return "" if self.board is None else self.board.job_of(identities)

    def require_worker(self) -> None:
        """Verify that a worker takes the requests of Octavia's API.

        :raises Unavailable: the broker is unknown or does not answer, or no worker consumes the queue
        """
        self._require_consumer(QUEUE, self._depth(QUEUE))

    def _prove_empty(self, queue: str) -> None:
        depth = self._depth(queue)
        self._note(queue, depth)
        if depth.messages:
            raise InFlight(f"{depth.messages} requests wait for Octavia's workers", 30.0)
        self._require_consumer(queue, depth)
        if queue in self._abandoned and self._clock() - self._abandoned[queue] < self._longest:
            text = f"the queue {queue} had no worker lately, and workers may now work on requests that waited there"
            raise InFlight(text, 60.0)

    def _note(self, queue: str, depth: QueueDepth) -> None:
        if not depth.consumers:
            self._abandoned[queue] = self._clock()

    def _require_consumer(self, queue: str, depth: QueueDepth) -> None:
        self._note(queue, depth)
        if not depth.consumers:
            text = f"no worker consumes the queue {queue}; requests wait until one does: start octavia-worker"
            raise Unavailable("octavia-worker", text)


def _jobboard(resources: Resources, files: ServiceFiles) -> Board | None:
    """Return Octavia's jobboard; None if an option states that Octavia has none.

    A missing option proves nothing: stackmend's copy of ``octavia.conf`` perhaps lacks the group ``[task_flow]``.

    :raises UnreadableBoard: it is unknown whether Octavia has a jobboard, or stackmend cannot read it
    """
    has_jobboard = resources.conf[options.GROUP].jobboard
    if has_jobboard is None:
        value = files.get("task_flow", "jobboard_enabled")
        if value is None:
            raise UnreadableBoard(
                "it is unknown whether Octavia has a jobboard: write [octavia] jobboard = false in stackmend's configuration, "
                f"or [task_flow] jobboard_enabled = False in {files}"
            )
        has_jobboard = _boolean(value, f"{files}: [task_flow] jobboard_enabled")
    return board_of(files) if has_jobboard else None


def _flows(files: ServiceFiles) -> str:
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


def _unknown(queue: str) -> QueueDepth:
    raise Unavailable(
        "octavia-broker",
        f"the broker of Octavia's work queue {queue} is unknown: {_REMEDY}",
    )
