from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.journal import controls, history
from consumer.journal.history import Deferred

_HOUR = 3600.0


class Budget:
    """Defers a heal that would exceed the handler's hourly budget, over all replicas."""

    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        name, bound, weight = request.task.name, request.task.settings.heals_per_hour, request.finding.weight
        if bound <= 0:
            return None
        if weight > bound:
            text = f"the heal changes {weight} objects; {name} may heal {bound} in an hour ([engine] heals_per_hour)"
            return Deferred(text, _HOUR)
        # The gate Stop has locked the handler's row, so replicas count one after the other.
        if history.spent(connection, name, clock, but=request.line_id) + weight > bound:
            text = f"{name} may heal {bound} objects in an hour, and has no room for {weight} ([engine] heals_per_hour)"
            # Each waiting key gets its own time, when the budget has room for it: earlier inspections would be useless.
            free = history.oldest_spent(connection, name, clock) + _HOUR
            last, place = controls.queue_up(connection, name, free, _HOUR * weight / bound, clock + _HOUR)
            return Deferred(text, max(1.0, place - clock), known=last > clock)
        return None
