"""Reading one broker, in batches, for as long as the process lives.

A :class:`Source` is one thread with one connection. It collects messages until a batch is full or the last one is long
enough ago, picks the wanted events, hands them over to be stored, and then acknowledges the whole batch with one
frame. The order is the guarantee: what is acknowledged is stored, and what is not stored comes back.

- **The journal is unavailable** (:class:`NotStored`): the same batch is offered again, with growing pauses in which the
  heartbeats go on. Nothing is acknowledged, so the broker soon stops sending. When this lasts, the connection is closed
  and the batch is offered without one: a delivery that stays unacknowledged for 30 minutes is ended by the broker, and a
  quorum queue counts how often a message came back. Opened again, everything is delivered again; storing twice is harmless.
- **The broker is unreachable**: every host is tried, with growing pauses, for ever.
- **Something may have been missed** (the broker was lost, a queue was deleted): ``on_gap`` is told, once messages can
  arrive again, so that a sweep sees all that no notification will tell.

Nothing that arrives can stop it: a message that cannot be read becomes a :class:`UndecodableMessage`, to be stored like the others.

One acknowledgement per batch rather than per message costs half for this process and an eighth for a quorum queue; a
prefetch of two batches keeps the next one coming while one is stored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from kombu.compression import decompress

from consumer.bus.connection import LOST, connect, plan, reason
from consumer.bus.envelope import Sieve, Undecodable
from consumer.bus.intake import Intake
from consumer.conf.bus import BusSettings
from handlers.base import Broker, Event

LOG = logging.getLogger(__name__)

#: A batch ends at this many bytes, and while the journal is unavailable no more than this is read ahead.
BATCH_BYTES = 8 * 1024 * 1024

#: How long the thread sleeps on a silent connection before it looks at the clock, the heartbeats and ``stop``.
_IDLE = 0.5

_STORE_AGAIN_FIRST, _STORE_AGAIN_MOST = 0.2, 5.0


class NotStored(Exception):
    """The journal could not store a batch now; offer it again later."""


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    """A message that cannot be understood.

    :param reason: why, for a person
    :param body: as it came, cut at ``[bus] dead_body_bytes``
    :param size: how long it was
    :param exchange: where it was published, with ``routing_key``
    """

    broker: str
    reason: str
    body: bytes
    size: int
    exchange: str = ""
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """A wanted event, and the message that carried it."""

    event: Event
    body: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages that are stored in one transaction and acknowledged together.

    :param broker: the broker's name
    :param wanted: in the order of arrival
    :param messages: the number of messages, unwanted ones included
    """

    broker: str
    wanted: tuple[Received, ...] = ()
    dead: tuple[UndecodableMessage, ...] = ()
    messages: int = 0


class Source:
    """Reads one broker.

    The attributes are for health and metrics, may be read by any thread, and are set by the one that runs.

    :param wanted: the normalised types of the events to hand over
    :param deliver: stores a batch; called by this thread only. It returns when the batch is stored, and raises
        :class:`NotStored` when it cannot be now. It should take seconds, not minutes: heartbeats wait for it
    :param on_gap: is told the broker's name and, in a sentence, why messages may have been missed; must be quick
    :raises UnusableURL: when the broker's transport URL is none of a broker that can be read
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
        #: why it is not reading, or not storing; empty when all is well
        self.problem = "not started"
        #: queues that are being read, and those that do not exist yet
        self.queues: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = settings.queues
        self.last_message_at: datetime | None = None
        self.received = 0
        self.wanted = 0
        self.dead = 0
        #: when the thread last went round, by the monotonic clock; it does so every few seconds, whatever is away
        self.turned_at = monotonic()
        self._settings = settings
        self._sieve = Sieve(wanted)
        self._deliver = deliver
        self._on_gap = on_gap
        self._plan = plan(broker.transport_url, settings, broker.options)
        self._gaps: list[str] = []
        self._collected = 0.0
        self._tell_from = 0.0
        self._said: set[tuple[str, str]] = set()

    def run(self, stop: threading.Event) -> None:
        """Read until ``stop`` is set. Returns within a second then, unless ``deliver`` or the broker takes longer."""
        wait = 0.0
        while not stop.is_set():
            self.turned_at = began = monotonic()
            lost = self._read_until_lost(stop)
            self.connected = False
            if not lost or stop.is_set():
                break
            if lost != self.problem:
                LOG.warning("broker %s: not reading, will try again for ever: %s", self.broker.name, lost)
            self.problem = lost
            self._gaps = self._gaps or [f"the broker was lost: {lost}"]
            stood = monotonic() - began > self._plan.retry_most
            wait = self._plan.retry_first if stood or not wait else wait + self._plan.retry_step
            stop.wait(min(wait, self._plan.retry_most))
        self.problem = "stopped"

    def _read_until_lost(self, stop: threading.Event) -> str:
        """Read over one connection; return why it ended, or nothing when it was to end."""
        try:
            link = connect(self._plan.endpoints, self._settings)
        except LOST as error:
            return reason(error)
        try:
            intake = Intake(link, self.broker, self._settings, self._said)
            lost = self._read(intake, stop)
            if not lost:
                intake.close()
        except LOST as error:
            lost = f"{link.name}: {reason(error)}"
        except Exception as error:  # a thread that ended would be noticed by nobody
            LOG.exception("broker %s: unexpected error while reading", self.broker.name)
            lost = f"{link.name}: {type(error).__name__}: {reason(error)}"
        finally:
            link.drop()
        return lost

    def _read(self, intake: Intake, stop: threading.Event) -> str:
        intake.look()
        self.connected = True
        self.problem = ""
        while not stop.is_set():
            self.turned_at = monotonic()
            self.queues, self.missing = tuple(intake.consumed.values()), intake.missing
            self._tell_gaps(intake)
            messages = self._collect(intake, stop)
            if messages:
                if not self._store(self._batch(messages), intake, stop):
                    return "" if stop.is_set() else "the journal was unavailable for long"
                intake.ack(messages)
            intake.tend()
        return ""

    def _collect(self, intake: Intake, stop: threading.Event) -> list[Any]:
        """Wait for messages until a batch is complete; nothing when nothing came for a while.

        What comes out of a silence is not made to wait for company: batches are that far apart, not that long.
        """
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

    def _batch(self, messages: Sequence[Any]) -> Batch:
        """Pick what is wanted and what is broken."""
        name, pick = self.broker.name, self._sieve.event
        wanted, dead = [], []
        for message in messages:
            body = message.body
            if not isinstance(body, bytes):  # an empty one, or one of the broker in memory
                body = str(body).encode("utf-8", "replace")
            try:
                event = pick(body, name)
            except Exception as error:  # Undecodable, or a mistake of ours: no message may stop the ones behind it
                body, event, why = self._second_look(message, body, error)
                if why:
                    dead.append(self._dead(message, body, why))
            if event is not None:
                wanted.append(Received(event, body))
        self.last_message_at = datetime.now(UTC)
        self.received += len(messages)
        self.wanted += len(wanted)
        self.dead += len(dead)
        return Batch(name, tuple(wanted), tuple(dead), len(messages))

    def _second_look(self, message: Any, body: bytes, error: Exception) -> tuple[bytes, Event | None, str]:
        """Unpack a message that its publisher compressed (``[oslo_messaging_rabbit] kombu_compression``)."""
        compression = (message.headers or {}).get("compression")
        if not compression:
            return body, None, _why(error)
        try:
            plain = decompress(body, compression)  # type: ignore[no-untyped-call]
            return plain, self._sieve.event(plain, self.broker.name), ""
        except Exception as failed:  # each compressor has errors of its own
            return body, None, _why(failed)

    def _dead(self, message: Any, body: bytes, why: str) -> UndecodableMessage:
        info = message.delivery_info or {}
        return UndecodableMessage(
            broker=self.broker.name,
            reason=why,
            body=bytes(body[: self._settings.dead_body_bytes]),
            size=len(body),
            exchange=str(info.get("exchange") or ""),
            routing_key=str(info.get("routing_key") or ""),
        )

    def _store(self, batch: Batch, intake: Intake, stop: threading.Event) -> bool:
        """Have a batch stored, however long it takes; True when it may be acknowledged."""
        if not batch.wanted and not batch.dead:
            return True
        began, wait, here = monotonic(), _STORE_AGAIN_FIRST, True
        while True:
            self.turned_at = monotonic()
            try:
                self._deliver(batch)
            except NotStored as error:
                problem = f"the journal is unavailable: {reason(error)}"
                if not self.problem:
                    LOG.warning("broker %s: %s; nothing is acknowledged until it is back", self.broker.name, problem)
            except Exception as error:  # ours, not the messages': to drop them would lose them
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
                self.connected = here = self._hold(intake, wait, began + self._settings.hold_seconds, stop)
            else:
                stop.wait(wait)
            wait = min(wait * 2, _STORE_AGAIN_MOST)

    def _hold(self, intake: Intake, seconds: float, last: float, stop: threading.Event) -> bool:
        """Keep the connection alive for a while without acknowledging anything.

        :param last: when to give the messages back
        :return: False when the connection is gone, and with it the right to acknowledge
        """
        end = monotonic() + seconds
        try:
            while (left := end - monotonic()) > 0 and not stop.is_set():
                if intake.size < BATCH_BYTES:
                    intake.drain(min(left, _IDLE))
                else:
                    stop.wait(min(left, _IDLE))
                intake.tend()
            if monotonic() > last:
                LOG.warning("broker %s: the messages go back until the journal is available", self.broker.name)
                intake.close()
                return False
        except LOST as error:
            LOG.warning("broker %s: lost while the journal was unavailable: %s", self.broker.name, reason(error))
            return False
        return True

    def _tell_gaps(self, intake: Intake) -> None:
        """Pass on why messages may have been missed; what cannot be passed on now is kept."""
        self._gaps += intake.gaps
        intake.gaps.clear()
        while self._gaps and monotonic() >= self._tell_from:
            try:
                self._on_gap(self.broker.name, self._gaps[0])
            except Exception as error:
                LOG.warning("broker %s: a sweep cannot be asked for now: %s", self.broker.name, reason(error))
                self._tell_from = monotonic() + _STORE_AGAIN_MOST
                return
            del self._gaps[0]


def _why(error: Exception) -> str:
    return (
        str(error) if isinstance(error, Undecodable) else f"it cannot be read: {type(error).__name__}: {reason(error)}"
    )
