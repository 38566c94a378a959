from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from oslo_config import cfg

from consumer.text import one_line, reason_of
from handlers.base import EVERYTHING, Finding, HandlerError, Hold

LOG = logging.getLogger(__name__)

#: Seconds beyond three readings after which the holds count as unknown. A reading may wait for a database or an API.
_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """A source of holds.

    :param name: the option or service that a person can look up: ``[engine] hold_file``
    :param read: returns the present holds; after an exception, every heal waits
    """

    name: str
    read: Callable[[], Iterable[Hold]]


@dataclass(frozen=True, slots=True)
class Standing:
    """A hold that is set now.

    :param readable: False if the source cannot be read; then this hold stops every heal
    """

    source: str
    hold: Hold
    readable: bool = True

    def __str__(self) -> str:
        return f"{self.hold.scope}: {self.hold.reason} ({self.source})"


class Board:
    """The holds of all sources, as last read.

    :param every: seconds between two readings
    """

    def __init__(
        self,
        sources: Sequence[Source] = (),
        every: float = 15.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sources = tuple(sources)
        self.every = every
        self._monotonic = monotonic
        self._reading = threading.Lock()
        self._read_at: float | None = None
        self._standing: tuple[Standing, ...] = ()

    def refresh(self) -> tuple[tuple[Standing, ...], tuple[Standing, ...]]:
        """Read all sources; return the new holds, and the holds that have ended."""
        with self._reading:
            before = self._standing
            self._read_all()
            now = self._standing
        return tuple(hold for hold in now if hold not in before), tuple(hold for hold in before if hold not in now)

    def keep_fresh(self) -> None:
        """Read all sources, unless they were read in the last ``every`` seconds. For processes without the reading thread."""
        with self._reading:
            if self._read_at is None or self._monotonic() - self._read_at > self.every:
                self._read_all()

    def _read_all(self) -> None:
        self._standing = tuple(hold for source in self.sources for hold in _read(source))
        self._read_at = self._monotonic()

    def standing(self) -> tuple[Standing, ...]:
        """Return the present holds. If the sources were not read lately, return one hold that stops every heal."""
        if not self.sources:
            return ()
        if self._read_at is None:
            return (Standing("holds", Hold(EVERYTHING, "not read yet"), readable=False),)
        age = self._monotonic() - self._read_at
        if age > 3 * self.every + _GRACE:
            return (Standing("holds", Hold(EVERYTHING, "the last reading is too old"), readable=False),)
        return self._standing

    def age(self) -> float | None:
        """Return the seconds since the last reading; None before the first."""
        return None if self._read_at is None else self._monotonic() - self._read_at

    def covering(self, finding: Finding) -> Standing | None:
        """Return a hold that names the finding's key, one of its ``concerns``, or everything; None without one."""
        scopes = {_normal(scope) for scope in (EVERYTHING, str(finding.key), *finding.concerns)}
        return next((one for one in self.standing() if _normal(one.hold.scope) in scopes), None)


def _read(source: Source) -> list[Standing]:
    try:
        return [Standing(source.name, hold) for hold in dict.fromkeys(source.read())]
    except (HandlerError, cfg.Error, OSError) as error:
        reason = reason_of(error)
    except Exception as error:
        LOG.exception("a bug in the source of holds %s", source.name)
        reason = type(error).__name__
    return [Standing(source.name, Hold(EVERYTHING, one_line(f"cannot be read: {reason}")), readable=False)]


def _normal(scope: str) -> str:
    """Casefold a scope and strip trailing spaces, because MySQL ignores both in host names."""
    return scope.rstrip().casefold()
