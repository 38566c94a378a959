"""Whether the process is well: ``/healthz`` is about itself, ``/readyz`` about what it stands on.

A loop that must go round for ever tells so each time; one that has been silent for too long makes the process unhealthy,
and whoever runs it may restart it. A broker or a journal that is away does not: a restart would not bring it back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consumer.bus.source import Source
from consumer.engine.meter import Meter
from consumer.journal.database import Database, JournalError, now

#: Seconds that a loop may be silent; the longest wait inside one is that for a database that does not answer.
SILENT = 120.0


class Beats(Meter):
    """When each loop last went round; nothing else is counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: dict[str, float] = {}
        self._lock = threading.Lock()

    def beat(self, loop: str) -> None:
        """A loop has gone round."""
        with self._lock:
            self._at[loop] = self._clock()

    def silence(self, sources: Sequence[Source]) -> Mapping[str, float]:
        """Return for how many seconds each loop has been silent, listeners included."""
        with self._lock:
            clock = self._clock()
            loops = {loop: clock - at for loop, at in sorted(self._at.items())}
        return loops | {f"listener {source.broker.name}": clock - source.turned_at for source in sources}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe says.

    :param lines: one per thing looked at
    """

    well: bool
    lines: tuple[str, ...]


def alive(beats: Beats, sources: Sequence[Source]) -> Verdict:
    """Say whether every loop goes round."""
    silences = beats.silence(sources)
    lines = tuple(
        f"{loop}: {'ok' if silent <= SILENT else f'silent for {silent:.0f} s'}" for loop, silent in silences.items()
    )
    return Verdict(all(silent <= SILENT for silent in silences.values()), lines)


def ready(database: Database, sources: Sequence[Source]) -> Verdict:
    """Say whether the journal answers and every broker is read."""
    lines, well = [], True
    try:
        database.transact(now)
        lines.append("journal: ok")
    except JournalError:
        well = False
        lines.append("journal: does not answer")
    for source in sources:
        well = well and source.connected
        lines.append(f"broker {source.broker.name}: {'ok' if source.connected else 'not read'}")
    if not sources:
        lines.append("brokers: none is configured or known yet; only sweeps find drift")
    return Verdict(well, tuple(lines))
