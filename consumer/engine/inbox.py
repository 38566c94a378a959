"""Stores a batch from the bus in the journal, in one transaction: hints and dead letters. Then the bus may acknowledge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from consumer.bus.source import Batch, NotStored, Received, UndecodableMessage
from consumer.engine.capacity import Capacity
from consumer.engine.router import Router, Unroutable
from consumer.journal import notification_formats, work
from consumer.journal.database import Database, JournalUnavailable, ValuesRefused
from consumer.journal.dead import DeadLetter
from consumer.journal.work import Hint

#: Seconds between two records that a format arrives from a broker.
_NOTE_EVERY = 60.0


class Inbox:
    """Stores the batches of all sources.

    :param keep_bytes: how many bytes of a message a dead letter keeps
    :param most_waiting: how many rows of work may wait; 0 for any number
    """

    def __init__(
        self, database: Database, router: Router, wake: Callable[[], None], keep_bytes: int, most_waiting: int = 0
    ) -> None:
        self._database = database
        self._router = router
        self._wake = wake
        self._keep_bytes = keep_bytes
        self._most_waiting = most_waiting
        self._capacity = Capacity(database, most_waiting)
        self._noted: dict[tuple[str, str], float] = {}

    def store(self, batch: Batch) -> None:
        """Store a batch; replace each message that the journal refuses by a dead letter.

        :raises NotStored: the journal is full, does not answer, or refuses even a dead letter without a body
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
        """Store a batch; if the journal refuses it, store each half by itself. Return the number of hints."""
        hints, dead = _letters_and_hints(self._router, batch, self._keep_bytes)
        try:
            return work.enqueue(self._database, hints, dead)
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

    def _refused(self, broker: str, message: Received | UndecodableMessage, refusal: str) -> int:
        """Store a refused message as a dead letter; omit the body if the journal refuses that too."""
        size = message.size if isinstance(message, UndecodableMessage) else len(message.body)
        letter = DeadLetter(
            broker, "", "", f"the journal refuses it: {refusal}", size, message.body[: self._keep_bytes]
        )
        try:
            return work.enqueue(self._database, [], [letter])
        except ValuesRefused:
            return work.enqueue(self._database, [], [replace(letter, body=b"")])

    def _note(self, batch: Batch) -> None:
        """Record which notification formats arrive, once in ``_NOTE_EVERY`` seconds. Each broker's thread calls this."""
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
