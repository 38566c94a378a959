"""An operator's pause and the breaker."""

from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.journal import controls
from consumer.journal.history import Deferred

#: Seconds until a stopped handler is asked for again: a new heal, and one that was interrupted.
_AGAIN, _INTERRUPTED = 2.0, 30.0


class Stop:
    """Defers a heal while its handler is paused or its breaker is open.

    The gate reads the handler's state in the heal's own transaction, because the dispatcher's copy may be a second old.
    """

    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        """Return a deferral if the handler is stopped. The handler's row stays locked for the next gates."""
        name = request.task.name
        if not controls.lock(connection, name).stopped:
            return None
        reason = f"{name} is stopped; 'stackmend handler list' gives the reason"
        if request.line_id is None:
            return Deferred(reason, _AGAIN)
        return Deferred(reason, _INTERRUPTED, known=True)
