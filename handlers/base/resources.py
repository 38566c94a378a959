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
    """A shared object, such as a database, that can check whether handlers can inspect and heal with it."""

    def warnings(self) -> Iterable[str]:
        """Yield sentences for the log: why handlers cannot inspect or heal with this object.

        :raises HandlerError: the database or API behind the object does not answer
        """


class Resources:
    """The objects that the handlers of one process share (engines, clients). The first use makes each object.

    :param conf: the loaded configuration, with every handler's options
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus | None = None) -> None:
        self.conf = conf
        self.bus = bus or Bus()
        self._made: dict[Callable[..., Any], Any] = {}
        self._lock = threading.RLock()

    def get(self, make: Callable[[Resources], T]) -> T:
        """Return the object that ``make`` returned at the first call; each ``make`` is called once.

        :param make: usually a ``from_resources``
        """
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self)
            made: T = self._made[make]
            return made

    def warnings(self) -> Iterator[str]:
        """Yield the warnings of each shared :class:`Warns` object; after a HandlerError, go on with the next object."""
        with self._lock:
            made = list(self._made.values())
        for one in made:
            if isinstance(one, Warns):
                with suppress(HandlerError):
                    yield from one.warnings()

    def close(self) -> None:
        """Close every shared object that has a method ``close``, the youngest first."""
        with self._lock:
            for one in reversed(list(self._made.values())):
                close = getattr(one, "close", None)
                if callable(close):
                    close()
            self._made.clear()
