"""Silence of many amphorae is no failure of each: the health manager or its database was away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from consumer import conf as configuration
from consumer import plugins
from handlers.base import InFlight, Key
from handlers.octavia import records, settings
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.failover.heartbeats import Heard, Listener
from tests.functional.octavia.world import House, Stuck, mend

MakeHouse = Callable[..., House]

TIMEOUT = 60.0
#: seconds by which the clock of the health manager is ahead: less than SKEW, more, and more than a lease that is renewed
AHEAD = (8.0, 20.0, 100.0)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """Load balancers with one amphora each, and a handler that sweeps every five seconds."""

    def __init__(self, house: House, number: int) -> None:
        self.house = house
        self.balancers = [house.octavia.add_load_balancer() for _number in range(number)]
        self.amphorae = [house.serving(balancer)[0].id for balancer in self.balancers]
        self.before = self.rows()
        self.clock = Clock()
        self.handler = FailedAmphora(house.driver, Listener(TIMEOUT, clock=self.clock), steps_within=0.0)

    def rows(self) -> list[list[records.Amphora]]:
        """All rows, to see whether anything was replaced or let go."""
        return [[replace(row, age=0.0) for row in self.house.rows(balancer)] for balancer in self.balancers]

    def beat(self, amphorae: list[str], silent: float = 1.0) -> None:
        """Write heartbeats."""
        for amphora in amphorae:
            self.house.octavia.heartbeat(amphora, silent=silent)

    def observe(self, seconds: float) -> None:
        """Let the handler sweep for a while."""
        for _turn in range(int(seconds // 5)):
            self.clock.now += 5
            list(self.handler.sweep())

    def touched(self) -> list[str]:
        """Sweep and inspect everything, and heal what may be healed; return the steps."""
        steps: list[str] = []
        for amphora in {key.id for key in self.handler.sweep()} | set(self.amphorae):
            with suppress(Stuck):
                steps += mend(self.house, self.handler, Key("amphora", amphora))
        return steps


@pytest.mark.parametrize("never_heard", [False, True])
@pytest.mark.parametrize("number", [2, 8])
def test_while_heartbeats_prove_nothing_an_amphora_in_error_is_not_cut_off(
    make_house: MakeHouse, number: int, never_heard: bool
) -> None:
    """After a failed rotation of its certificate, for instance, it serves until it has a replacement."""
    house = make_house(maximum_preserved_amphora_count=1, failover_threshold=0)
    fleet = Fleet(house, number)
    fleet.beat(fleet.amphorae[1:] if never_heard else fleet.amphorae)
    fleet.observe(2 * TIMEOUT)
    fleet.beat(fleet.amphorae[1:] if never_heard else fleet.amphorae, silent=45)
    house.octavia.set_amphora(fleet.amphorae[0], status="ERROR")
    row = house.amphora(fleet.amphorae[0])
    house.cloud.weather.before = lambda call: (
        pytest.fail(call) if call in {"detach_port", "disable_port", "stop_server"} else None
    )
    assert mend(house, fleet.handler, Key("amphora", row.id)) == ["failover", "detach"]
    house.assert_whole(fleet.balancers[0])
    assert house.preserved() == []


def test_an_amphora_in_error_is_preserved_once_heartbeats_prove_its_silence(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, failover_threshold=0)
    fleet = Fleet(house, 8)
    fleet.beat(fleet.amphorae)
    fleet.beat(fleet.amphorae[:1], silent=45)
    house.octavia.set_amphora(fleet.amphorae[0], status="ERROR")
    with pytest.raises(Stuck, match="most amphorae are heard"):
        mend(house, fleet.handler, Key("amphora", fleet.amphorae[0]))
    fleet.observe(2 * TIMEOUT)
    assert "unplug" in mend(house, fleet.handler, Key("amphora", fleet.amphorae[0]))
    assert len(house.preserved()) == 1


@pytest.mark.parametrize("preserved", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_when_all_are_silent_none_is_touched(make_house: MakeHouse, number: int, preserved: int) -> None:
    house = make_house(maximum_preserved_amphora_count=preserved, failover_threshold=0)
    fleet = Fleet(house, number)
    fleet.beat(fleet.amphorae)
    fleet.observe(2 * TIMEOUT)
    fleet.beat(fleet.amphorae, silent=45)
    assert list(fleet.handler.sweep()) == [] or number == 1
    assert fleet.touched() == []
    assert fleet.rows() == fleet.before


def test_the_last_to_be_heard_again_are_not_touched(make_house: MakeHouse) -> None:
    """Eight amphorae were silent, five have been heard since: the last three are alive as well."""
    house = make_house(maximum_preserved_amphora_count=3)
    fleet = Fleet(house, 8)
    fleet.beat(fleet.amphorae)
    fleet.observe(2 * TIMEOUT)
    fleet.beat(fleet.amphorae, silent=45)
    fleet.observe(5)
    fleet.beat(fleet.amphorae[:5])
    fleet.observe(5)
    assert list(fleet.handler.sweep()) == []
    assert fleet.touched() == []
    assert fleet.rows() == fleet.before
    # a whole heartbeat_timeout later, one that is still silent has failed
    fleet.beat(fleet.amphorae[:7])
    fleet.observe(TIMEOUT + 5)
    assert list(fleet.handler.sweep()) == [Key("amphora", fleet.amphorae[7])]
    assert "let-go" in mend(house, fleet.handler, Key("amphora", fleet.amphorae[7]))


def test_after_a_start_a_whole_timeout_is_observed_first(make_house: MakeHouse) -> None:
    fleet = Fleet(make_house(), 5)
    fleet.beat(fleet.amphorae[1:])
    fleet.beat(fleet.amphorae[:1], silent=70)
    key = Key("amphora", fleet.amphorae[0])
    with pytest.raises(InFlight, match="4 of 5 amphorae were heard lately"):
        list(fleet.handler.inspect(key))
    fleet.observe(TIMEOUT + 5)
    assert [finding.problem for finding in fleet.handler.inspect(key)] == ["failover"]


def test_time_that_was_not_observed_proves_nothing() -> None:
    clock = Clock()
    listener = Listener(TIMEOUT, clock=clock)
    assert listener.observe(Heard(10, 10)) == TIMEOUT
    for _turn in range(12):
        clock.now += 5
        left = listener.observe(Heard(10, 9))
    assert left == 0
    clock.now += 31
    assert listener.observe(Heard(10, 9)) == TIMEOUT
    clock.now += 5
    assert listener.observe(Heard(10, 4)) == TIMEOUT
    clock.now += 5
    assert listener.observe(Heard(10, 9)) == TIMEOUT


def test_mass_silence_lists_no_suspects_for_the_breaker(make_house: MakeHouse) -> None:
    house = make_house()
    fleet = Fleet(house, 12)
    fleet.beat(fleet.amphorae)
    fleet.observe(2 * TIMEOUT)
    fleet.beat(fleet.amphorae, silent=45)
    assert list(fleet.handler.sweep()) == []
    # other proofs do not depend on heartbeats
    house.octavia.set_amphora(fleet.amphorae[0], status="ERROR")
    assert list(fleet.handler.sweep()) == [Key("amphora", fleet.amphorae[0])]


@pytest.mark.parametrize("threshold", [0, 3])
def test_while_all_are_silent_a_gone_server_is_found(make_house: MakeHouse, threshold: int) -> None:
    """The health manager is away, and Nova's notification was lost: Nova alone shows the failure."""
    house = make_house(failover_threshold=threshold)
    fleet = Fleet(house, 12)
    fleet.beat(fleet.amphorae, silent=70)
    house.pass_time(120)
    fleet.observe(5)
    assert list(fleet.handler.sweep()) == []
    gone = fleet.amphorae[0]
    house.cloud.delete_server(house.amphora(gone).compute_id or "")
    assert list(fleet.handler.sweep()) == [Key("amphora", gone)]
    (finding,) = fleet.handler.inspect(Key("amphora", gone))
    if threshold:
        assert (finding.problem, finding.healable) == ("amphora-failed", False)
        return
    assert mend(house, fleet.handler, Key("amphora", gone)) == ["failover", "detach"]
    house.assert_whole(fleet.balancers[0])


def test_among_few_a_silent_amphora_on_a_dead_host_is_replaced(make_house: MakeHouse) -> None:
    house = make_house()
    fleet = Fleet(house, 2)
    fleet.beat(fleet.amphorae)
    fleet.observe(2 * TIMEOUT)
    fleet.beat(fleet.amphorae[:1], silent=45)
    key = Key("amphora", fleet.amphorae[0])
    (finding,) = fleet.handler.inspect(key)
    assert (finding.healable, finding.problem) == (False, "amphora-failed")
    server = house.cloud.server(house.amphora(key.id).compute_id or "")
    assert server is not None
    house.cloud.weather.dead_hosts.add(server.host or "")
    assert mend(house, fleet.handler, key) == ["failover", "detach"]


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_clock_that_is_ahead_is_not_taken_for_a_lease(make_house: MakeHouse, ahead: float) -> None:
    """The clock of the health manager's host is ahead of the database's."""
    house = make_house(maximum_preserved_amphora_count=1)
    fleet = Fleet(house, 6)
    fleet.beat(fleet.amphorae, silent=-ahead)
    assert fleet.touched() == []
    assert fleet.rows() == fleet.before
    # the others do not count as failures, either
    failed = house.fail(fleet.balancers[0])
    house.octavia.heartbeat(failed.id, silent=20)
    assert "let-go" in mend(house, fleet.handler, Key("amphora", failed.id))


@pytest.mark.parametrize("ahead", AHEAD)
def test_an_amphora_that_comes_back_by_a_clock_that_is_ahead_is_not_cut_off(
    make_house: MakeHouse, ahead: float
) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.silence(row.id)
    handler, key = house.handler(), Key("amphora", row.id)
    for _step in ("mark", "lease"):
        handler.heal(next(iter(handler.inspect(key))))
    house.octavia.heartbeat(row.id, silent=-ahead)
    assert mend(house, handler, key) == ["unmark"]
    assert [left.id for left in house.serving(balancer)] == [row.id]
    assert house.preserved() == []


@pytest.mark.parametrize(("preserved", "stale_after"), [(0, 60.0), (1, 40.0)])
def test_the_margin_applies_only_where_amphorae_are_preserved(
    tmp_path: Path, preserved: int, stale_after: float
) -> None:
    file = tmp_path / "stackmend.conf"
    file.write_text(f"[housekeeping]\nmaximum_preserved_amphora_count = {preserved}\n")
    conf = configuration.load(plugins.handlers(), [str(file)])
    assert settings.settings(conf, 60).stale_after == stale_after


@pytest.mark.parametrize(("interval", "stale_after", "quiet_after"), [(10, 40.0, 12.0), (30, 90.0, 36.0)])
def test_amphorae_that_beat_rarely_are_silent_later(
    tmp_path: Path, interval: int, stale_after: float, quiet_after: float
) -> None:
    octavia = tmp_path / "octavia.conf"
    octavia.write_text(f"[health_manager]\nheartbeat_interval = {interval}\n")
    file = tmp_path / "stackmend.conf"
    file.write_text(f"[octavia]\nconfig_file = {octavia}\n[housekeeping]\nmaximum_preserved_amphora_count = 1\n")
    found = settings.settings(configuration.load(plugins.handlers(), [str(file)]), 60)
    assert (found.stale_after, found.quiet_after) == (stale_after, quiet_after)


@pytest.mark.parametrize(
    ("octavias", "own", "bound"), [(0, 3, 3), (1, 3, 3), (2, 3, 1), (9, 3, 3), (5, 0, 4), (0, 0, 0)]
)
def test_octavias_own_threshold_is_not_overridden(tmp_path: Path, octavias: int, own: int, bound: int) -> None:
    octavia = tmp_path / "octavia.conf"
    octavia.write_text(f"[health_manager]\nfailover_threshold = {octavias}\n" if octavias else "")
    file = tmp_path / "stackmend.conf"
    file.write_text(f"[octavia]\nconfig_file = {octavia}\n[housekeeping]\nfailover_threshold = {own}\n")
    found = settings.settings(configuration.load(plugins.handlers(), [str(file)]), 60)
    assert found.failover_threshold == bound
