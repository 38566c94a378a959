"""Stores notifications in the journal, as hints or dead letters. Then :mod:`consumer.bus` acknowledges them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from consumer.bus.source import Batch, NotStored, Received, UndecodableMessage
from consumer.engine.capacity import Capacity
from consumer.engine.router import Router, Unroutable
from consumer.journal import hinting, notification_formats
from consumer.journal.database import Database
from consumer.journal.dead import DeadLetter
from consumer.journal.errors import JournalUnavailable, ValuesRefused
from consumer.journal.work import Hint
from consumer.tracing import Tracer

#: Seconds between two updates of the last arrival of one format from one broker.
_NOTE_EVERY = 60.0


class Inbox:
    """Stores the messages of all brokers; each broker's thread passes batches.

    :param wake: called when new hints are stored
    :param keep_bytes: bytes of a message that a dead letter keeps
    :param most_waiting: the largest number of waiting rows; 0 for no limit
    """

    def __init__(
        self,
        database: Database,
        router: Router,
        wake: Callable[[], None],
        keep_bytes: int,
        most_waiting: int = 0,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or Tracer()
        self._database = database
        self._router = router
        self._wake = wake
        self._keep_bytes = keep_bytes
        self._most_waiting = most_waiting
        self._capacity = Capacity(database, most_waiting)
        self._noted: dict[tuple[str, str], float] = {}

    def store(self, batch: Batch) -> None:
        """Store a batch of messages. If the journal refuses a message's values, store a dead letter for that message.

        :raises NotStored: too many rows wait, the journal does not answer, or it refuses even a dead letter without a body
        """
        try:
            if batch.wanted and not self._capacity.has_room():
                raise NotStored(f"{self._most_waiting} objects wait for an inspection ([journal] max_waiting)")
            stored = self._store(batch)
            self._capacity.stored(stored)
            self._note(batch)
        except (JournalUnavailable, ValuesRefused) as error:
            raise NotStored(str(error)) from error
        if stored:
            self._wake()

    def _store(self, batch: Batch) -> int:
        """Store a batch, in parts if the journal refuses the whole; return the number of work rows written."""
        hints, dead = _letters_and_hints(self._router, batch, self._keep_bytes)
        try:
            stored = hinting.enqueue(self._database, hints, dead)
        except ValuesRefused as refusal:
            wanted, letters = batch.wanted, batch.dead
            if wanted and letters:
                return self._store(replace(batch, dead=())) + self._store(replace(batch, wanted=()))
            whole: tuple[Received | UndecodableMessage, ...] = wanted or letters
            if len(whole) == 1:
                return self._refused(batch.broker, whole[0], str(refusal))
            at = len(whole) // 2
            halves = (replace(batch, wanted=wanted[part], dead=letters[part]) for part in (slice(at), slice(at, None)))
            return sum(self._store(half) for half in halves)
        self._tracer.stored(hints, batch.broker, batch.arrived_at)
        return stored

    def _refused(self, broker: str, message: Received | UndecodableMessage, refusal: str) -> int:
        size = message.size if isinstance(message, UndecodableMessage) else len(message.body)
        letter = DeadLetter(
            broker, "", "", f"the journal refuses it: {refusal}", size, message.body[: self._keep_bytes]
        )
        try:
            return hinting.enqueue(self._database, [], [letter])
        except ValuesRefused:
            return hinting.enqueue(self._database, [], [replace(letter, body=b"")])

    def _note(self, batch: Batch) -> None:
        for written in {received.event.format for received in batch.wanted}:
            known = (batch.broker, written)
            if time.monotonic() - self._noted.get(known, float("-inf")) >= _NOTE_EVERY:
                notification_formats.record(self._database, *known)
                self._noted[known] = time.monotonic()


def _letters_and_hints(router: Router, batch: Batch, keep_bytes: int) -> tuple[list[Hint], list[DeadLetter]]:
    hints: list[Hint] = []
    dead = [_letter(event) for event in batch.dead]
    for received in batch.wanted:
        body = received.body
        try:
            hints += router.route(received.event)
        except Unroutable as error:
            dead.append(DeadLetter(batch.broker, "", "", str(error), len(body), body[:keep_bytes]))
    return hints, dead


def _letter(event: UndecodableMessage) -> DeadLetter:
    return DeadLetter(event.broker, event.exchange, event.routing_key, event.reason, event.size, event.body)
