from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.journal import exemptions
from consumer.journal.exemptions import Exemption
from consumer.journal.history import Outcome, Withheld
from consumer.text import utc


class Exempt:
    """Withholds a heal of an object that an operator exempted."""

    def ask(self, connection: Connection, request: Request, clock: float) -> Withheld | None:
        found = exemptions.covering(connection, request.finding, clock)
        return Withheld(Outcome.EXEMPT, reason(found)) if found else None


def reason(found: Exemption) -> str:
    end = f" until {utc(found.until)}" if found.until is not None else ""
    return f"{found.operator} exempted {found.scope}{end}: {found.reason}"
