"""The health of the process: ``/healthz`` (its main threads run), ``/readyz`` (the journal and the brokers answer).

Each round of the loops that read brokers, claim rows, extend leases and delete old records is a beat. If beats stop, or a
worker hangs, ``/healthz`` fails, and a supervisor can restart the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consumer.bus.source import Source
from consumer.engine.meter import Meter
from consumer.journal.database import Database, now
from consumer.journal.errors import JournalError

#: Seconds that a loop may be silent: more than its longest wait, for a database that does not answer.
SILENT = 120.0


class Beats(Meter):
    """A meter that counts nothing, but records the time of each loop's last beat."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: dict[str, float] = {}
        self._lock = threading.Lock()

    def beat(self, loop: str) -> None:
        with self._lock:
            self._at[loop] = self._clock()

    def silence(self, sources: Sequence[Source]) -> Mapping[str, float]:
        with self._lock:
            clock = self._clock()
            loops = {loop: clock - at for loop, at in sorted(self._at.items())}
        return loops | {f"listener {source.broker.name}": clock - source.turned_at for source in sources}


@dataclass(frozen=True, slots=True)
class Health:
    healthy: bool
    lines: tuple[str, ...]


def alive(beats: Beats, sources: Sequence[Source]) -> Health:
    silences = beats.silence(sources)
    lines = tuple(
        f"{loop}: {'ok' if silent <= SILENT else f'silent for {silent:.0f} s'}" for loop, silent in silences.items()
    )
    return Health(all(silent <= SILENT for silent in silences.values()), lines)


def ready(database: Database, sources: Sequence[Source]) -> Health:
    lines, healthy = [], True
    try:
        database.transact(now)
        lines.append("journal: ok")
    except JournalError:
        healthy = False
        lines.append("journal: does not answer")
    for source in sources:
        healthy = healthy and source.connected
        lines.append(f"broker {source.broker.name}: {'ok' if source.connected else 'not connected'}")
    if not sources:
        lines.append("brokers: none configured or known yet; only sweeps find drift")
    return Health(healthy, tuple(lines))
