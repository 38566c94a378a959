"""Decides whether the silence of one amphora can prove a failure now.

Heartbeat records of living amphorae age, too, while Octavia's health manager or database is away. So silence is a witness only
while at least half of the amphorae send heartbeats. After a start of stackmend, or once half send heartbeats again, silence
proves nothing for one ``heartbeat_timeout``, as in Octavia (``octavia/cmd/health_manager.py``,
``octavia/controller/healthmanager/health_manager.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

LOG = logging.getLogger(__name__)

#: in a cloud with no more amphorae than this, the others are too few to show that heartbeats arrive
FEW = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """How many amphorae send heartbeats.

    :param amphorae: number of serving amphorae that have a heartbeat record
    :param lately: number of ``amphorae`` with a recent heartbeat
    """

    amphorae: int
    lately: int

    @property
    def mostly_silent(self) -> bool:
        return self.lately * 2 < self.amphorae

    @property
    def few(self) -> bool:
        """Whether the cloud has so few amphorae that their silence alone proves no failure."""
        return self.amphorae <= FEW


class Listener:
    """Remembers since when at least half of the amphorae send heartbeats. Thread-safe.

    :param patience: seconds for which at least half must send heartbeats before silence proves a failure
    :param gap: greatest time between two observations, in seconds; after a longer time, ``patience`` begins anew
    """

    def __init__(self, patience: float, gap: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._gap = gap
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last = float("-inf")

    def observe(self, heard: Heard) -> float:
        """Remember whether at least half of the amphorae send heartbeats now.

        :return: seconds until silence can prove a failure
        """
        with self._lock:
            now = self._clock()
            observed, self._last = now - self._last <= self._gap, now
            if heard.mostly_silent:
                if self._since is not None or not observed:
                    LOG.warning(
                        "%d of %d amphorae were not heard lately: silence proves nothing now; is octavia-health-manager up?",
                        heard.amphorae - heard.lately,
                        heard.amphorae,
                    )
                self._since = None
                return self._patience
            if self._since is None or not observed:
                self._since = now
            return max(0.0, self._since + self._patience - now)
