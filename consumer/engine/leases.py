"""Extends the leases of this replica's claims, and ends the leases of dead replicas.

A claim hangs if its work makes no step for ``[engine] claim_seconds``. This thread then does not extend the lease, so any
replica can claim the row. Meanwhile it records no beat (sign of life) of the workers, so ``/healthz`` reports a failure.
"""

from __future__ import annotations

import logging
import threading
import time

from consumer.engine.dispatcher import Dispatcher
from consumer.engine.ended_leases import Sightings
from consumer.engine.engine import Engine
from consumer.journal import claiming, replicas
from consumer.journal.errors import JournalUnavailable

LOG = logging.getLogger(__name__)
#: Seconds of silence after which a replica is forgotten.
_FORGET_AFTER = 120.0


class Leases:
    def __init__(self, engine: Engine, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._stop = threading.Event()
        self._hung: frozenset[str] = frozenset()
        self._sightings = Sightings(engine.settings.lease_seconds)
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._engine.settings.lease_seconds / 4):
            self._engine.meter.beat("leases")
            try:
                self._extend()
                self._end()
            except JournalUnavailable as outage:
                LOG.debug("leases are neither extended nor ended: %s", outage)
            except Exception:
                LOG.exception("a bug in stackmend's leases")

    def _extend(self) -> None:
        settings = self._engine.settings
        ages = self._dispatcher.ages()
        hung = frozenset(f"{claim.handler} {claim.key}" for claim, age in ages.items() if age > settings.claim_seconds)
        if not hung:
            self._engine.meter.beat("workers")
        for name in hung - self._hung:
            LOG.error("%s: a worker hangs for more than %g s ([engine] claim_seconds)", name, settings.claim_seconds)
        self._hung = hung
        live = [claim for claim, age in ages.items() if age <= settings.claim_seconds]
        claiming.extend(self._engine.database, live)
        replicas.beat(self._engine.database, self._engine.replica, _FORGET_AFTER)

    def _end(self) -> None:
        before = time.monotonic()
        leases = claiming.leases(self._engine.database)
        ended = self._sightings.ended(leases, before, time.monotonic())
        if ended and claiming.end(self._engine.database, ended):
            self._dispatcher.wake()
