from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.engine.task import Task
from consumer.journal.history import Deferred

#: Seconds until an interrupted heal asks again; other rows are not claimed before the window opens.
_INTERRUPTED = 30.0


def closed(task: Task) -> str:
    return f"the window of {task.name} ({task.settings.window}) is closed"


class OpenWindow:
    """Defers a heal outside the task's window. The row stays due, so a worker claims it when the window opens.

    An interrupted heal asks again every 30 seconds.
    """

    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        if request.task.is_open:
            return None
        after = 0.0 if request.line_id is None else _INTERRUPTED
        return Deferred(
            closed(request.task),
            after,
            known=request.line_id is not None,
        )
