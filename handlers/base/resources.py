from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol, TypeVar, runtime_checkable

from oslo_config import cfg

from handlers.base.brokers import Bus
from handlers.base.errors import HandlerError

T = TypeVar("T")


@runtime_checkable
class Warns(Protocol):
    """A shared object, such as a database, that can give reasons why handlers cannot inspect or heal."""

    def warnings(self) -> Iterable[str]:
        """Yield one sentence for each reason.

        :raises HandlerError: the database or API behind the object does not answer
        """


class Resources:
    """The objects that one process's handlers share (engines, sessions, clients), each made on first use.

    :param conf: the loaded configuration, with every handler's options registered
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus | None = None) -> None:
        self.conf = conf
        self.bus = bus or Bus()
        self._made: dict[Callable[..., Any], Any] = {}
        self._lock = threading.RLock()

    def get(self, make: Callable[[Resources], T]) -> T:
        """Return the object that ``make``, usually a ``from_resources``, makes at the first call; keep it for later calls."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self)
            made: T = self._made[make]
            return made

    def warnings(self) -> Iterator[str]:
        """Yield the warnings of each :class:`Warns` object; a HandlerError ends only its object's warnings."""
        with self._lock:
            made = list(self._made.values())
        for one in made:
            if isinstance(one, Warns):
                with suppress(HandlerError):
                    yield from one.warnings()

    def close(self) -> None:
        """Close every shared object that has a ``close``, the youngest first."""
        with self._lock:
            for one in reversed(list(self._made.values())):
                close = getattr(one, "close", None)
                if callable(close):
                    close()
            self._made.clear()
