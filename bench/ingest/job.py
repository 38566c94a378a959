"""What a consumer process is told and what it answers, as JSON on standard input and output."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

#: The consumers, in the order of their turns; each is a module of this package with ``consume(job, meter)``.
CONSUMERS = ("stackmend", "oslo_batch", "kombu_loop")

#: As Nova publishes.
EXCHANGE = "nova"
PRIORITY = "info"


@dataclass(frozen=True, slots=True)
class Job:
    """A queue to drain.

    :param url: of the broker, as kombu reads it; ``transport_url`` as oslo.messaging does
    :param topic: the topic whose queue for ``PRIORITY`` is to be drained
    :param messages: how many there are in it
    :param quorum: whether it is a quorum queue
    :param journal: where stackmend stores the keys
    """

    url: str
    transport_url: str
    topic: str
    messages: int
    quorum: bool
    journal: str

    @property
    def queue(self) -> str:
        """The queue's name, made as oslo.messaging makes it."""
        return f"{self.topic}.{PRIORITY}"

    def as_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`as_json` returned."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining the queue took.

    :param seconds: from the first consume to the last acknowledgement
    :param cpu_seconds: user and system time of all threads in between
    """

    messages: int
    seconds: float
    cpu_seconds: float

    @property
    def messages_per_s(self) -> float:
        """The speed."""
        return self.messages / self.seconds

    @property
    def cpu_us_per_message(self) -> float:
        """The price of a message, in microseconds of one processor core."""
        return self.cpu_seconds * 1e6 / self.messages

    def as_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`as_json` returned."""
        return cls(**json.loads(text))
