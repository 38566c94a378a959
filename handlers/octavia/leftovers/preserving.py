from __future__ import annotations

from handlers.base import InFlight
from handlers.octavia import records
from handlers.octavia.drivers.base import Driver
from handlers.octavia.failover import facts
from handlers.octavia.failover.rules import next_step
from handlers.octavia.failover.steps import Deactivated, Nothing, Replaced, Step, Wait


def next_preservation(driver: Driver, row: records.Amphora) -> tuple[Deactivated | Replaced, Step] | None:
    """Return the facts about an amphora and the next step to preserve it; None without such a step.

    :raises InFlight: the step must wait
    """
    read = facts.read_deactivated(driver, driver.settings, row)
    if isinstance(read, Nothing):
        return None
    decision = next_step(read, driver.settings)
    if isinstance(decision, Wait):
        raise InFlight(decision.reason, decision.after)
    return (read, decision) if isinstance(decision, Step) else None
