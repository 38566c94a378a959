"""The contract of a demonstration: a small cloud of one process, and the drifts that are made in it for real.

Like :mod:`handlers.base`, this is what ``consumer`` may know; it may import nothing of ``consumer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from handlers.base import Key


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification as it stands on the bus, for replay and for the demonstration."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scene:
    """One drift of a demonstration.

    :param title: what happens, for the person who watches: ``an instance is deleted while Placement is down``
    :param handler: which handler heals it
    :param key: the key under which it will be found
    :param play: makes the drift for real and returns the notifications that Nova or Octavia would have sent; none
        for a drift that only a sweep can find
    :param drift: reads the world: one phrase for what is wrong now, empty when nothing is
    """

    title: str
    handler: str
    key: Key
    play: Callable[[], Sequence[Notification]]
    drift: Callable[[], str]


class Demo(ABC):
    """A small cloud of one process in which ``stackmend demo`` shows the handlers at work."""

    @abstractmethod
    def start(self, folder: Path) -> Mapping[str, Mapping[str, str]]:
        """Build the cloud in an empty folder; return the options, by group, that point handlers at it."""

    @abstractmethod
    def scenes(self) -> Sequence[Scene]:
        """The drifts, in the order in which to play them. Only after :meth:`start`."""

    @abstractmethod
    def stop(self) -> None:
        """Take the cloud down; the folder is the caller's."""
