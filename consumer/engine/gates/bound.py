from __future__ import annotations

import threading

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.journal.history import Deferred
from handlers.base import Key


class Bound:
    """Defers a heal if the command would then have healed more than ``most`` objects.

    One drift can need several heals of one key. Together, these heals count once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._granted: dict[tuple[str, Key], int] = {}
        self._lock = threading.Lock()

    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        key, weight = (request.task.name, request.finding.key), request.finding.weight
        with self._lock:
            mine = self._granted.get(key, 0)
            if weight > mine and sum(self._granted.values()) - mine + weight > self._most:
                return Deferred(f"this run may heal {self._most} objects (--max-count)", 0.0, known=True)
            self._granted[key] = max(weight, mine)
        return None
