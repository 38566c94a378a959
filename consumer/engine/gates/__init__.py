"""The gates: conditions for a heal, one per file. The transaction that opens the heal's history entry asks them.

``gate`` defines the interface. A one-shot command can add the gate ``bound``, which limits the objects that it heals.
"""

from __future__ import annotations

from consumer.engine.gates.approval import Approval
from consumer.engine.gates.bound import Bound
from consumer.engine.gates.budget import Budget
from consumer.engine.gates.exempt import Exempt
from consumer.engine.gates.gate import Gate, Request, ask_all
from consumer.engine.gates.hold import OnHold
from consumer.engine.gates.stop import Stop
from consumer.engine.gates.window import OpenWindow
from consumer.engine.holds.board import Board


def all_gates(board: Board) -> tuple[Gate, ...]:
    """Return the gates of every heal, in the order in which a heal asks them."""
    return (Exempt(), Approval(), OpenWindow(), OnHold(board), Stop(), Budget())


__all__ = ["Bound", "Gate", "Request", "all_gates", "ask_all"]
