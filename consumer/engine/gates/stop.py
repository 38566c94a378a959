from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.journal import controls
from consumer.journal.history import Deferred

#: Seconds until a deferred heal asks again: a new heal, and an interrupted one.
_AGAIN, _INTERRUPTED = 2.0, 30.0


class Stop:
    """Defers a heal while its handler is paused or stopped, by the breaker or by a database below its watermark."""

    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        """Lock the handler's row in the table ``task``, whatever the answer. The gate Budget, asked next, counts under this
        lock.
        """
        name = request.task.name
        # Not the dispatcher's copy of the state, which may be a second old.
        if not controls.lock(connection, name).stopped:
            return None
        reason = f"{name} is stopped; 'stackmend handler list' gives the reason"
        if request.line_id is None:
            return Deferred(reason, _AGAIN)
        return Deferred(reason, _INTERRUPTED, known=True)
