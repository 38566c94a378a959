"""Reads one broker in batches until it is stopped.

A :class:`Source` has one thread and one connection. It collects a batch of messages, stores the batch in the journal, and
then acknowledges the batch. After a loss of the connection, the broker sends unacknowledged messages again.

- **Batch not stored** (:class:`NotStored`): the source sends heartbeats and tries to store the same batch again. After
  ``unacknowledged_seconds`` it closes the connection, because RabbitMQ waits only 30 minutes for acknowledgements.
- **Broker unreachable**: the source tries every host, without end and with growing pauses.
- **Messages were perhaps missed** (lost connection, deleted queue): ``on_gap`` requests a sweep when messages can arrive
  again. After the deletion of a queue, it requests another sweep at once.
- **A message cannot be decoded**: it becomes a dead letter.
- **Unexpected error while reading**: the source reconnects, and takes one message at a time. The broker then repeats only the
  message that causes the error. A queue with a delivery limit finally drops this message.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic, time

from consumer.bus.compression import decompress
from consumer.bus.connection import LOST, connect, plan, reason
from consumer.bus.envelope import Sieve, Undecodable
from consumer.bus.intake import Arrived, Backlog, Intake
from consumer.conf.bus import BusSettings
from handlers.base import Broker, Event

LOG = logging.getLogger(__name__)

#: The largest batch, and the most that is read ahead while the journal is unavailable.
BATCH_BYTES = 8 * 1024 * 1024

#: Seconds of waiting on a silent connection before the next check of clock, heartbeats and ``stop``.
_IDLE = 0.5

_STORE_AGAIN_FIRST, _STORE_AGAIN_MOST = 0.2, 5.0


class NotStored(Exception):
    """The journal cannot store a batch now."""


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    """:param body: at most the first ``[bus] dead_body_bytes`` bytes of the message's body
    :param size: bytes of the whole body
    """

    broker: str
    reason: str
    body: bytes
    size: int
    exchange: str = ""
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    event: Event
    body: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages to store and acknowledge together.

    :param messages: the number of messages, unwanted ones included
    :param arrived_at: when the messages were read, in seconds since the epoch
    """

    broker: str
    wanted: tuple[Received, ...] = ()
    dead: tuple[UndecodableMessage, ...] = ()
    messages: int = 0
    arrived_at: float = field(default_factory=time)


class Source:
    """The thread sets the attributes that health and metrics need; any thread may read them.

    :param wanted: versioned names of event types
    :param deliver: stores a batch or raises :class:`NotStored`, within seconds, because heartbeats wait meanwhile
    :param on_gap: gets the broker's name and a sentence why messages were perhaps missed; must be quick
    """

    def __init__(
        self,
        broker: Broker,
        settings: BusSettings,
        wanted: frozenset[str],
        deliver: Callable[[Batch], None],
        on_gap: Callable[[str, str], None],
    ) -> None:
        self.broker = broker
        self.connected = False
        #: why the source does not read or store; empty when it does both
        self.problem = "not started"
        #: queues that are read, and those that do not exist yet
        self.queues: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = settings.queues
        #: as last counted; it stays while the broker is away
        self.backlog: Backlog | None = None
        self.last_message_at: datetime | None = None
        self.received = 0
        self.wanted = 0
        self.dead = 0
        #: monotonic time of the last loop; at most a few seconds old, even during an outage
        self.turned_at = monotonic()
        self._settings = settings
        self._sieve = Sieve(wanted, settings.max_body_bytes)
        self._deliver = deliver
        self._on_gap = on_gap
        self._plan = plan(broker.transport_url, settings, broker.options)
        self._gaps: list[str] = []
        self._collected = float("-inf")
        self._gaps_from = float("-inf")
        self._logged: set[tuple[str, str]] = set()
        #: how many messages to take one by one
        self._careful = 0

    def run(self, stop: threading.Event) -> None:
        """Read until ``stop`` is set. Then return within a second, unless ``deliver`` or the broker takes longer."""
        wait = 0.0
        while not stop.is_set():
            self.turned_at = began = monotonic()
            lost = self._read_until_lost(stop)
            self.connected = False
            if stop.is_set():
                break
            if not lost:
                continue
            if lost != self.problem:
                LOG.warning("broker %s: connection lost, trying again without end: %s", self.broker.name, lost)
            self.problem = lost
            self._gaps = self._gaps or [f"the connection to the broker was lost: {lost}"]
            stood = monotonic() - began > self._plan.retry_most
            wait = self._plan.retry_first if stood or not wait else wait + self._plan.retry_step
            stop.wait(min(wait, self._plan.retry_most))
        self.problem = "stopped"

    def _read_until_lost(self, stop: threading.Event) -> str:
        try:
            link = connect(self._plan.endpoints, self._settings)
        except LOST as error:
            return reason(error)
        try:
            prefetch = 1 if self._careful else self._settings.prefetch
            intake = Intake(link, self.broker, self._settings, self._logged, prefetch)
            lost = self._read(intake, stop)
            if not lost:
                intake.close()
        except LOST as error:
            lost = f"{link.name}: {reason(error)}"
        except Exception as error:  # the thread must survive its own bugs
            LOG.exception("broker %s: unexpected error while reading", self.broker.name)
            self._careful = self._settings.prefetch
            lost = f"{link.name}: {type(error).__name__}: {reason(error)}"
        finally:
            link.drop()
        return lost

    def _read(self, intake: Intake, stop: threading.Event) -> str:
        intake.discover()
        self.connected = True
        self.problem = ""
        while not stop.is_set():
            self.turned_at = monotonic()
            self.queues, self.missing = tuple(intake.consumed.values()), intake.missing
            self.backlog = intake.backlog or self.backlog
            self._report_gaps(intake)
            messages = self._collect(intake, stop)
            if messages:
                if not self._store(self._batch(messages), intake, stop):
                    return "" if stop.is_set() else "the journal was unavailable for too long"
                intake.ack(messages)
                if self._careful:
                    self._careful -= len(messages)
                    if self._careful <= 0:
                        self._careful = 0
                        return ""
            intake.tend()
        return ""

    def _collect(self, intake: Intake, stop: threading.Event) -> list[Arrived]:
        # batch_seconds counts from the last batch, so the first message after a silence does not wait.
        most, end = self._settings.batch_size, self._collected + self._settings.batch_seconds
        while len(intake.arrived) < most and intake.size < BATCH_BYTES and not stop.is_set():
            if not intake.arrived:
                if not intake.drain(_IDLE):
                    return []
                continue
            left = end - monotonic()
            if left <= 0 or not intake.drain(left):
                break
        self._collected = monotonic()
        return intake.take(most)

    def _batch(self, messages: Sequence[Arrived]) -> Batch:
        name, pick = self.broker.name, self._sieve.event
        arrived_at = self.last_message_at = datetime.now(UTC)
        wanted, dead = [], []
        for message in messages:
            body = message.body
            try:
                event = pick(body, name)
            except Exception as error:  # Undecodable, or a bug: no message may block the later ones
                body, event, why = self._uncompressed(message, error)
                if why:
                    dead.append(self._dead(message, why))
            if event is not None:
                wanted.append(Received(event, body))
        self.received += len(messages)
        self.wanted += len(wanted)
        self.dead += len(dead)
        return Batch(name, tuple(wanted), tuple(dead), len(messages), arrived_at.timestamp())

    def _uncompressed(self, message: Arrived, error: Exception) -> tuple[bytes, Event | None, str]:
        """If a message is compressed (``[oslo_messaging_rabbit] kombu_compression``), decompress and decode it.

        :return: the body, decompressed if possible; the event, None if unwanted or undecodable; the reason why the message is
            undecodable, otherwise empty
        """
        body = message.body
        if message.size > self._settings.max_body_bytes:
            return body, None, f"the message has {message.size} bytes, more than [bus] max_body_bytes"
        if message.unreadable:
            return body, None, f"{message.unreadable}; {_why(error)}"
        if not message.compression:
            return body, None, _why(error)
        try:
            plain = decompress(body, message.compression, self._settings.max_body_bytes)
            return plain, self._sieve.event(plain, self.broker.name), ""
        except Exception as failed:  # Undecodable, or a bug
            return body, None, _why(failed)

    def _dead(self, message: Arrived, why: str) -> UndecodableMessage:
        return UndecodableMessage(
            broker=self.broker.name,
            reason=why,
            body=message.body[: self._settings.dead_body_bytes],
            size=message.size,
            exchange=message.exchange,
            routing_key=message.routing_key,
        )

    def _store(self, batch: Batch, intake: Intake, stop: threading.Event) -> bool:
        """Store a batch; try again until it is stored or ``stop`` is set.

        :return: whether to acknowledge the batch: it is stored, and the connection that received it is still open
        """
        if not batch.wanted and not batch.dead:
            return True
        began, wait, here = monotonic(), _STORE_AGAIN_FIRST, True
        while True:
            self.turned_at = monotonic()
            try:
                self._deliver(batch)
            except NotStored as error:
                problem = f"the journal stores nothing now: {reason(error)}"
                if not self.problem:
                    LOG.warning("broker %s: %s; messages stay unacknowledged", self.broker.name, problem)
            except Exception as error:  # a bug: keep the messages
                problem = f"the journal failed: {type(error).__name__}: {reason(error)}"
                if not self.problem:
                    LOG.exception("broker %s: unexpected error while storing a batch", self.broker.name)
            else:
                self.problem = ""
                return here
            self.problem = problem
            if stop.is_set():
                return False
            if here:
                self.connected = here = self._keep_alive(
                    intake, wait, began + self._settings.unacknowledged_seconds, stop
                )
            else:
                stop.wait(wait)
            wait = min(wait * 2, _STORE_AGAIN_MOST)

    def _keep_alive(self, intake: Intake, seconds: float, last: float, stop: threading.Event) -> bool:
        """Keep the connection alive for ``seconds`` without acknowledging; return False if the connection is lost or closed.

        :param last: monotonic time after which to close the connection
        """
        end = monotonic() + seconds
        try:
            while (left := end - monotonic()) > 0 and not stop.is_set():
                if intake.size < BATCH_BYTES:
                    intake.drain(min(left, _IDLE))
                else:
                    stop.wait(min(left, _IDLE))
                intake.tend()
                self.backlog = intake.backlog or self.backlog
            if monotonic() > last:
                LOG.warning("broker %s: messages returned to the broker until the journal answers", self.broker.name)
                intake.close()
                return False
        except LOST as error:
            LOG.warning(
                "broker %s: connection lost while the journal was unavailable: %s", self.broker.name, reason(error)
            )
            return False
        return True

    def _report_gaps(self, intake: Intake) -> None:
        self._gaps += intake.gaps
        intake.gaps.clear()
        while self._gaps and monotonic() >= self._gaps_from:
            try:
                self._on_gap(self.broker.name, self._gaps[0])
            except Exception as error:
                LOG.warning("broker %s: cannot request a sweep now: %s", self.broker.name, reason(error))
                self._gaps_from = monotonic() + _STORE_AGAIN_MOST
                return
            del self._gaps[0]


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Undecodable) else f"decoding failed: {type(error).__name__}: {reason(error)}"
