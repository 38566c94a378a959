"""The stopwatch inside a consumer process.

All consumers stand on py-amqp, so its channel is where all can be measured alike: the clock starts when the process first
asks for deliveries (imports, connecting and declaring are behind it then) and stops when the last message is
acknowledged (and, where something is stored, committed).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import amqp

from bench.ingest.job import Drained


class Meter:
    """Measures one drain of a queue by the one channel of this process.

    :param messages: how many acknowledgements end it

    ``done`` is set then.
    """

    def __init__(self, messages: int) -> None:
        self.done = threading.Event()
        self._messages = messages
        self._acknowledged = 0
        self._began: tuple[float, float] | None = None
        self._ended: tuple[float, float] | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watch the channels of py-amqp."""
        consume, ack = amqp.Channel.basic_consume, amqp.Channel.basic_ack

        def basic_consume(channel: Any, *arguments: Any, **named: Any) -> Any:
            if self._began is None:
                self._began = _clocks()
            return consume(channel, *arguments, **named)

        def basic_ack(channel: Any, delivery_tag: int, multiple: bool = False) -> Any:
            answer = ack(channel, delivery_tag, multiple)
            # The tags of a channel count from 1, so an acknowledgement of all up to a tag tells how many that were.
            self._acknowledged = delivery_tag if multiple else self._acknowledged + 1
            if self._acknowledged == self._messages:
                self._ended = _clocks()
                self.done.set()
            return answer

        with (
            patch.object(amqp.Channel, "basic_consume", basic_consume),
            patch.object(amqp.Channel, "basic_ack", basic_ack),
        ):
            yield

    def reading(self) -> Drained:
        """Return what was measured.

        :raises RuntimeError: when not every message was acknowledged exactly once
        """
        if self._began is None or self._ended is None or self._acknowledged != self._messages:
            raise RuntimeError(f"{self._acknowledged} of {self._messages} messages were acknowledged")
        wall, cpu = (end - begin for begin, end in zip(self._began, self._ended, strict=True))
        return Drained(self._messages, wall, cpu)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
