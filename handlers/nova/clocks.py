"""Measures how far the clocks of Nova's services are from a cell database's clock.

Handlers compute ages by the database's clock, from times that Nova's services wrote. In the table ``services``, a service
increments ``report_count`` every ten seconds by default (``[DEFAULT] report_interval``). With each report, the service sets
``updated_at`` by its own or a conductor's clock. If a service reports between two readings, ``updated_at`` and the times of
both readings give a lower bound of the difference.

Handlers subtract the difference from ages. If it is larger than :data:`LARGEST`, they refuse heals.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database, utcnow
from handlers.base import Unavailable
from handlers.nova import tables

#: seconds of difference that ``stackmend check`` tolerates
TOLERATED = 2.0
#: seconds of difference beyond which no age proves anything
LARGEST = 30.0
#: seconds between two readings that are compared, at least and at most
APART = (2.0, 12.0)
#: seconds for which a difference is remembered
REMEMBERED = 600.0
#: seconds between the two readings of ``stackmend check``
PAUSE = 3.0
#: a service without a report for so many seconds is down: Nova's ``service_down_time``
_DOWN = 60.0
#: the columns have whole seconds, and MySQL rounds them
_ROUNDING = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a cell's table ``services``.

    :param now: the time by the database's clock
    :param reports: ``report_count`` and ``updated_at`` by service id
    """

    now: datetime
    reports: Mapping[int, tuple[int, datetime]]

    @property
    def alive(self) -> bool:
        return any(abs((self.now - at).total_seconds()) < _DOWN for _, at in self.reports.values())


def difference(first: Reading, second: Reading) -> float | None:
    """Return the seconds by which the clocks of Nova and of the database differ at least, whichever is ahead.

    Return None if no service reported between the readings, or if the table ``services`` was restored meanwhile. After a
    restore, a service's ``report_count`` is lower, or has grown by more than one a second.
    """
    grown = {
        service: count - first.reports[service][0]
        for service, (count, _) in second.reports.items()
        if service in first.reports
    }
    most = (second.now - first.now).total_seconds() + 1
    if any(not 0 <= more <= most for more in grown.values()):
        return None
    bounds = [
        max((at - second.now).total_seconds(), (first.now - at).total_seconds())
        for at in (second.reports[service][1] for service, more in grown.items() if more)
    ]
    return max(0.0, max(bounds) - _ROUNDING) if bounds else None


def read(connection: Connection) -> Reading | None:
    """Read the reports of the services that are not deleted; return None if no service has reported."""
    c = tables.services.c
    query = sa.select(c.id, c.report_count, c.updated_at, utcnow().label("now")).where(
        c.deleted == 0, c.updated_at.is_not(None)
    )
    rows = connection.execute(query).all()
    return Reading(rows[0].now, {row.id: (row.report_count, row.updated_at) for row in rows}) if rows else None


@dataclass(slots=True)
class _Memory:
    reading: Reading | None = None
    read_at: float = float("-inf")
    measured: list[tuple[float, float]] = field(default_factory=list)


class Clocks:
    """Remembers the clock differences of databases. Thread-safe."""

    def __init__(self) -> None:
        self._memories: dict[str, _Memory] = {}
        self._lock = threading.Lock()

    def observe(self, database: Database) -> Reading | None:
        """Return a reading of a cell's table ``services``; None if the database does not answer or no service has reported.

        Within two seconds, return the last reading again. Within twelve seconds, remember the clock difference that the last
        and the new reading show.
        """
        now = time.monotonic()
        with self._lock:
            memory = self._memories.setdefault(database.url, _Memory())
            if now - memory.read_at < APART[0]:
                return memory.reading
            before, before_at, memory.read_at = memory.reading, memory.read_at, now
        try:
            reading = database.run(read)
        except Unavailable:
            reading = None
        seconds = None
        if reading is not None and before is not None and now - before_at <= APART[1]:
            seconds = difference(before, reading)
        with self._lock:
            memory.reading = reading
            memory.measured = [one for one in memory.measured if now - one[0] < REMEMBERED]
            if seconds is not None:
                memory.measured.append((now, seconds))
        return reading

    def difference(self, database: Database) -> float | None:
        """Return the largest clock difference, in seconds, of the last ten minutes; None if none was measured."""
        now = time.monotonic()
        with self._lock:
            memory = self._memories.get(database.url, _Memory())
            return max((seconds for at, seconds in memory.measured if now - at < REMEMBERED), default=None)

    def measure(self, databases: Iterable[Database]) -> None:
        """Observe each database. If any service of Nova is up, observe all databases again after three seconds."""
        asked = list(databases)
        readings = [self.observe(database) for database in asked]
        if any(reading is not None and reading.alive for reading in readings):
            time.sleep(PAUSE)
            for database in asked:
                self.observe(database)
