from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from handlers.base import Key, Resources


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification as a service publishes it to RabbitMQ."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scene:
    """One drift of a demonstration.

    :param title: a sentence for the viewer: ``an instance is deleted while Placement is down``
    :param play: makes the drift; returns the services' notifications, none for a drift that only a sweep can find
    :param drift: reads the cloud; returns a phrase that describes the drift, empty if the drift is gone
    """

    title: str
    handler: str
    key: Key
    play: Callable[[], Sequence[Notification]]
    drift: Callable[[], str]


class Demo(ABC):
    """A small cloud in one process, in which ``stackmend demo`` shows the handlers.

    :cvar world: a description of the cloud for the viewer: ``a real Placement``
    :cvar handlers: names of the handlers that heal the scenes
    """

    world: ClassVar[str]
    handlers: ClassVar[frozenset[str]]

    @abstractmethod
    def start(self, folder: Path) -> Mapping[str, Mapping[str, str]]:
        """Build the cloud in a folder. Return the options, by group and name, that point handlers at this cloud."""

    @abstractmethod
    def join(self, resources: Resources) -> None:
        """Prepare the scenes with the daemon's resources, before the daemon starts."""

    @abstractmethod
    def scenes(self) -> Sequence[Scene]:
        """Return the scenes in their order. The caller calls :meth:`join` first."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the cloud, but leave its folder."""
