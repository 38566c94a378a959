from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.journal import exemptions
from consumer.journal.exemptions import Exemption
from consumer.journal.history import Outcome, Withheld
from consumer.text import utc
from handlers.base import Finding


class Exempt:
    """Withholds a heal of an object that an operator or the owner's tag exempted."""

    def ask(self, connection: Connection, request: Request, clock: float) -> Withheld | None:
        why = reason(connection, request.finding, clock)
        return Withheld(Outcome.EXEMPT, why) if why else None


def reason(connection: Connection, finding: Finding, clock: float) -> str:
    if finding.exempted:
        return finding.exempted
    found = exemptions.covering(connection, finding, clock)
    return _text(found) if found else ""


def _text(found: Exemption) -> str:
    end = f" until {utc(found.until)}" if found.until is not None else ""
    return f"{found.operator} exempted {found.scope}{end}: {found.reason}"
