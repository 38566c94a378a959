"""The mark of a load balancer that stackmend did not free gives a later ERROR of Octavia no failover."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, HandlerError, InFlight, Refused
from handlers.octavia import tables
from handlers.octavia.stuck import freeing
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import grow_older
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House, balancer_key


class Late(Queue):
    """The queue of a worker whose flow ends when stackmend asks for the last time before its write."""

    def __init__(self, ends: Callable[[], None]) -> None:
        super().__init__()
        self._ends = ends

    def prove_idle(self, requests: int, providers: Collection[str] = ()) -> None:
        self._ends()


@pytest.mark.parametrize("error", [None, InFlight("a request waits", 60.0), Refused("a job is on the jobboard")])
def test_octavias_own_error_in_the_second_of_the_mark_is_not_failed_over(
    house: House, error: HandlerError | None
) -> None:
    balancer = house.octavia.add_load_balancer()
    [amphora] = house.serving(balancer)
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    marks: list[str] = []

    def ends() -> None:
        """Write ERROR in the second of the mark, by a clock that is behind."""
        mark = house.cloud.present(amphora.compute_id or "").metadata.get(freeing.FREED)
        if not mark:
            return
        marks.append(mark)
        c = tables.load_balancer.c
        values = {"provisioning_status": "ERROR", "updated_at": datetime.fromisoformat(mark)}
        write = sa.update(tables.load_balancer).where(c.id == balancer).values(**values)
        house.database.run(lambda connection: connection.execute(write))
        if error is not None:
            raise error

    handler = StuckLoadBalancers(house.driver, Late(ends), 3600.0)
    [finding] = handler.inspect(balancer_key(balancer))
    with pytest.raises((Conflict, InFlight, Refused)):
        handler.heal(finding)

    assert marks
    assert house.balancer(balancer).status == "ERROR"
    assert [found.problem for found in handler.inspect(balancer_key(balancer))] == []
