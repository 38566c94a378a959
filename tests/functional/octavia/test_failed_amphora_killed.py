"""After a kill at any moment the next process finishes: nothing leaks, nothing is preserved twice.

The process dies just before or just after each write to Octavia's database or by the driver. Then another process, which
remembers nothing, takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from handlers.base import InFlight, Key
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.failover.failed_amphora import STEPS_WITHIN, FailedAmphora
from tests.functional.octavia.world import House, mend

METHODS: dict[str, dict[str, object]] = {
    "replaced": {},
    "unplug": {"maximum_preserved_amphora_count": 1},
    "snapshot": {"maximum_preserved_amphora_count": 1, "preservation_method": "snapshot"},
    "snapshot-and-server": {
        "maximum_preserved_amphora_count": 1,
        "preservation_method": "snapshot",
        "preservation_keeps": "server",
    },
}

#: calls of the driver that only read
READS = {"server", "servers", "ports_of", "port", "ports", "image", "images"}


class Killed(BaseException):
    """SIGKILL."""


class Axe:
    """Kills at the n-th moment; before and after each write there is one."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.moments = 0

    def moment(self, call: str) -> None:
        """Count a moment before or after a write."""
        if call in READS:
            return
        self.moments += 1
        if self.moments == self.at:
            raise Killed(call)

    @contextmanager
    def over(self, house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Strike while stackmend works, and not while Octavia does."""
        run, weather = OctaviaDatabase.run, house.cloud.weather

        def killing_run(database: OctaviaDatabase, work: Callable[..., Any]) -> Any:
            module = getattr(getattr(work, "func", work), "__module__", "")
            writes = module == "handlers.octavia.changes"
            if writes:
                self.moment("before a transaction")
            done = run(database, work)
            if writes:
                self.moment("after a transaction")
            return done

        with monkeypatch.context() as patch:
            patch.setattr(OctaviaDatabase, "run", killing_run)
            weather.before = weather.after = self.moment
            try:
                yield
            finally:
                weather.before = weather.after = lambda _call: None


def scene(make_house: Callable[..., House], method: str, way: str) -> tuple[House, str, Key]:
    house = make_house(**METHODS[method])
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    if way == "silent":
        house.silence(failed.id)
    else:
        house.cloud.alter_server(failed.compute_id or "", status="ERROR")
    return house, balancer, Key("amphora", failed.id)


@pytest.mark.slow
@pytest.mark.parametrize("steps_within", [0.0, STEPS_WITHIN], ids=["one step", "all steps"])
@pytest.mark.parametrize("way", ["silent", "error"])
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_every_moment(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch, method: str, way: str, steps_within: float
) -> None:
    moment, survived = 0, False
    while not survived:
        moment += 1
        house, balancer, key = scene(make_house, method, way)
        axe = Axe(moment)
        with axe.over(house, monkeypatch):
            survived = True
            try:
                mend(house, house.handler(steps_within), key)
            except Killed:
                survived = False
        mend(house, house.handler(steps_within), key)
        house.assert_whole(balancer)
        house.assert_no_leak()
        assert len(house.preserved()) == (0 if method == "replaced" else 1), f"killed at moment {moment}"
    assert moment > (2 if method == "replaced" else 14)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_every_moment_without_a_next_process(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The lease expires and the health manager replaces the amphora, or the next sweep lists it."""
    moment, survived = 0, False
    while not survived:
        moment += 1
        house, balancer, key = scene(make_house, method, "silent")
        with Axe(moment).over(house, monkeypatch):
            survived = True
            with suppress(Killed):
                mend(house, house.handler(STEPS_WITHIN), key)
                continue
            survived = False
        row = house.amphora(key.id)
        assert (row.status, row.compute_id) != ("ALLOCATED", None)
        if row.status == "ALLOCATED":
            # the health manager, once the lease has expired
            house.octavia.failover_amphora(key.id)
            assert house.balancer(balancer).status == "ACTIVE"
            assert house.cloud.server(row.compute_id or "") is None
        elif row.compute_id is None:
            finished = row.load_balancer_id is None
            assert finished or key in list(house.handler().sweep())
        assert len(house.serving(balancer)) == 1


def test_the_driver_of_a_new_process_goes_on(make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep finds an amphora that was let go, without the journal."""
    house, balancer, key = scene(make_house, "unplug", "silent")
    handler = house.handler()
    while house.amphora(key.id).compute_id is not None:
        handler.heal(next(iter(handler.inspect(key))))
    again = NoopDriver(house.driver.settings, house.database, house.cloud)
    successor = FailedAmphora(again)
    assert list(successor.sweep()) == [key]
    with suppress(InFlight):
        mend(house, successor, key)
    house.assert_whole(balancer)
    house.assert_no_leak()
