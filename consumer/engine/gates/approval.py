from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.decisions import fingerprint
from consumer.engine.gates.gate import Request
from consumer.journal import asks
from consumer.journal.approvals import State
from consumer.journal.history import Allowed, Outcome, Withheld
from handlers.base import Mode

_HOUR = 3600.0


class Approval:
    """In mode ``ask``, stores a finding as an ask, and withholds the heal until an operator approves the ask.

    If a finding has only one of two required witnesses, the approving operator is the second witness.
    """

    def ask(self, connection: Connection, request: Request, clock: float) -> Allowed | Withheld | None:
        settings, name, finding = request.task.settings, request.task.name, request.finding
        if settings.mode is not Mode.ASK and finding.healable:
            return None
        mark = fingerprint([finding])
        found = asks.standing(connection, name, finding.key, finding.problem, clock)
        if found is None or found.fingerprint != mark or found.expired:
            ask_id = asks.put(connection, name, finding, mark, clock + settings.ask_hours * _HOUR, clock)
            return _waits(ask_id)
        match found.state:
            case State.APPROVED:
                return Allowed(found.operator)
            case State.DENIED:
                return Withheld(Outcome.DENIED, f"{found.operator} denied it: {found.reason}")
            case State.WAITING:
                return _waits(found.id)


def _waits(ask_id: int) -> Withheld:
    return Withheld(Outcome.ASKED, f"waits for 'stackmend work approve {ask_id}'")
