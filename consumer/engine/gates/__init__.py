"""The conditions for a heal, one per file. The transaction that opens a heal's line checks all conditions.

``gate`` (the contract), ``exempt`` (exempt objects), ``approval`` (mode ``ask``), ``window`` (the task's hours), ``stop``
(pause and breaker), ``budget`` (objects per hour). A command may add ``bound`` (objects of one run).
:mod:`consumer.engine.dependency_backoff` acts earlier: it stops inspections while a dependency is down.
"""

from __future__ import annotations

from consumer.engine.gates.approval import Approval
from consumer.engine.gates.bound import Bound
from consumer.engine.gates.budget import Budget
from consumer.engine.gates.exempt import Exempt
from consumer.engine.gates.gate import Gate, Request, ask_all
from consumer.engine.gates.stop import Stop
from consumer.engine.gates.window import OpenWindow

#: Every gate, in the order in which they are asked; the first that objects to a heal gives the reason.
GATES: tuple[Gate, ...] = (Exempt(), Approval(), OpenWindow(), Stop(), Budget())

__all__ = ["GATES", "Bound", "Gate", "Request", "ask_all"]
