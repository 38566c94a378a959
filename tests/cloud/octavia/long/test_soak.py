"""Random failures for a long time, first with Octavia alone, then with stackmend.

Run it with ``STACKMEND_SOAK_MINUTES=30 tox -e cloud -- -s tests/cloud/octavia/long/test_soak.py``.
``STACKMEND_SOAK_MINUTES`` is the length of the second part, ``STACKMEND_SOAK_BALANCERS`` the number of load balancers.
An amphora serves, and sends heartbeats, while its row is ALLOCATED, its server is ACTIVE with its VRRP port, and no test has
silenced it. The table compares, by kind of failure, the seconds until a load balancer had all its serving amphorae again.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import Amphora
from tests.cloud.octavia.heartbeats import Heartbeats
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, wait_for_rest, world

MINUTES = float(os.environ.get("STACKMEND_SOAK_MINUTES", "0"))
BALANCERS = int(os.environ.get("STACKMEND_SOAK_BALANCERS", "12"))
SEED = int(os.environ.get("STACKMEND_SOAK_SEED", "1"))

FAILURES = ("deleted", "stopped", "error", "silent")
#: seconds between two kills of stackmend
KILL_EVERY = 120
#: seconds after which a load balancer that is not whole ends the soak
PATIENCE = 900

_SERVING = """
SELECT a.id, a.load_balancer_id FROM octavia.amphora a
JOIN nova_cell1.instances i ON i.uuid = a.compute_id AND i.deleted = 0 AND i.vm_state = 'active' AND i.power_state = 1
JOIN neutron.ports p ON p.id = a.vrrp_port_id AND p.device_id = a.compute_id AND p.admin_state_up
WHERE a.status = 'ALLOCATED' AND a.load_balancer_id IS NOT NULL
"""


@dataclass
class Hearts:
    """The agents of all amphorae; an amphora beats while it serves."""

    cloud: ControlPlane
    heartbeats: Heartbeats
    silent: set[str] = field(default_factory=set)
    serving: Counter[str] = field(default_factory=Counter)
    _end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._end.wait(1):
            with suppress(Exception):  # the database may be away
                rows = [line.split("\t") for line in self.cloud.mariadb.execute(_SERVING).splitlines()]
                alive = [(amphora, balancer) for amphora, balancer in rows if amphora not in self.silent]
                self.heartbeats.only({amphora for amphora, _balancer in alive})
                self.serving = Counter(balancer for _amphora, balancer in alive)

    def stop(self) -> None:
        self._end.set()


@pytest.fixture
def hearts(octavia_cloud: ControlPlane) -> Iterator[Hearts]:
    octavia_cloud.start_health_manager()
    with Heartbeats(octavia_cloud) as heartbeats:
        hearts = Hearts(octavia_cloud, heartbeats)
        thread = threading.Thread(target=hearts.run, daemon=True)
        thread.start()
        yield hearts
        hearts.stop()
        thread.join()
    octavia_cloud.stop_service("octavia-health-manager")


class Soak:
    """Failures of some load balancers, and the seconds until they were whole again."""

    def __init__(self, scene: Scene, hearts: Hearts, topologies: dict[str, str], chance: random.Random) -> None:
        self.scene, self.hearts, self.topologies, self.chance = scene, hearts, topologies, chance
        self.taken: dict[str, list[float]] = defaultdict(list)

    def wanted(self, balancer: str) -> int:
        return 1 if self.topologies[balancer] == "SINGLE" else 2

    def fail(self, balancer: str, how: str) -> tuple[str, str, float]:
        victim: Amphora = self.chance.choice(self.scene.balancers.serving(balancer))
        self.hearts.silent.add(victim.id)  # its guest dies with its server
        if how != "silent":
            self.scene.fail(victim, how)
        return balancer, how, time.monotonic()

    def await_whole(self, failures: list[tuple[str, str, float]]) -> None:
        """Wait until all these are whole, and note how long each took."""
        open_, until = list(failures), time.monotonic() + PATIENCE
        time.sleep(3)  # the hearts notice the failures
        while open_:
            for failure in list(open_):
                balancer, how, began = failure
                with suppress(Exception):  # the database may be away
                    whole = self.hearts.serving[balancer] == self.wanted(balancer)
                    if whole and self.scene.balancers.status(balancer) == "ACTIVE":
                        self.taken[how].append(time.monotonic() - began)
                        open_.remove(failure)
            assert time.monotonic() < until, f"not whole: {open_}"
            time.sleep(0.5)


def outages(scene: Scene) -> dict[str, tuple[Callable[[], None], float, Callable[[], None]]]:
    """How to take each dependency away, for how many seconds, and how to bring it back."""
    cloud = scene.cloud

    def service(name: str, seconds: float) -> tuple[Callable[[], None], float, Callable[[], None]]:
        return (lambda: cloud.stop_service(name)), seconds, (lambda: cloud.start_service(name))

    return {
        "API away": service("octavia-api", 20),
        "health manager restarted": service("octavia-health-manager", 5),
        "broker away": (cloud.rabbitmq.pause, 20, cloud.rabbitmq.resume),
        "database away": (cloud.mariadb.pause, 60, cloud.mariadb.resume),
    }


def table(alone: dict[str, list[float]], beside: dict[str, list[float]]) -> str:
    """Seconds until whole, by kind of failure."""
    lines = [
        f"{'failure':10} {'alone p50':>10} {'max':>6} {'n':>3} {'beside p50':>11} {'max':>6} {'n':>3} {'ratio':>6}"
    ]
    for how in FAILURES:
        one, other = alone[how], beside[how]
        if one and other:
            a, b = statistics.median(one), statistics.median(other)
            lines.append(
                f"{how:10} {a:10.1f} {max(one):6.1f} {len(one):3} {b:11.1f} {max(other):6.1f} {len(other):3} {b / a:6.2f}"
            )
    return "\n".join(lines)


@pytest.mark.skipif(not MINUTES, reason="it runs on demand: STACKMEND_SOAK_MINUTES=30")
@pytest.mark.timeout(0)
def test_soak(before: set[str], hearts: Hearts, scene: Scene) -> None:
    chance = random.Random(SEED)
    topologies = ["ACTIVE_STANDBY" if number % 3 == 2 else "SINGLE" for number in range(BALANCERS)]
    made = dict(zip(scene.create(*topologies), topologies, strict=True))
    alone = Soak(scene, hearts, made, chance)
    names = list(made)
    wait_until(lambda: all(hearts.serving[one] for one in names), 120, "heartbeats of all")
    for round_ in range(0, max(len(FAILURES), 4), 4):
        chosen = chance.sample(names, min(4, len(names)))
        hows = [FAILURES[(round_ + number) % len(FAILURES)] for number in range(len(chosen))]
        alone.await_whole([alone.fail(one, how) for one, how in zip(chosen, hows, strict=True)])
    print("Octavia alone:", dict(alone.taken))

    scene.program.configure(
        {
            "journal": {"connection": f"sqlite:///{scene.program.folder}/journal.sqlite"},
            **installation.options(
                scene.cloud,
                *("failed_amphora", "stuck_load_balancers"),
                failover_threshold=0,
                maximum_preserved_amphora_count=2,
                preservation_scheme="cycle",
            ),
        }
    )
    installation.start(scene.program, scene.cloud)
    beside = Soak(scene, hearts, made, chance)
    end, killed, kills = time.monotonic() + MINUTES * 60, time.monotonic(), 0
    away = outages(scene)
    while time.monotonic() < end:
        failures = [beside.fail(one, chance.choice(FAILURES)) for one in chance.sample(names, min(2, len(names)))]
        if chance.random() < 0.5:
            what = chance.choice(list(away))
            take, seconds, give = away[what]
            print(f"{what} for {seconds:g} s", flush=True)
            take()
            time.sleep(seconds)
            give()
        if time.monotonic() - killed > KILL_EVERY:
            scene.program.kill()
            scene.program.start()
            killed, kills = time.monotonic(), kills + 1
        beside.await_whole(failures)
        print(table(alone.taken, beside.taken), flush=True)
    print(f"stackmend was killed {kills} times\n{table(alone.taken, beside.taken)}", flush=True)

    wait_until(lambda: installation.settled(scene.program), PATIENCE, "an end")
    for balancer in names:
        scene.whole(balancer)
    wait_for_rest(scene.cloud)
    assert disorders(scene.cloud) == set()
    for server in scene.kept().values():
        assert scene.is_cut_off(server.id), "no address answers twice"
    scene.program.stop()
    hearts.stop()
    scene.end(*names)
    scene.discard()
    scene.cloud.mariadb.execute("DELETE FROM amphora_health", "octavia")
    assert world(scene.cloud) == before
    for how in FAILURES:
        if alone.taken[how] and beside.taken[how]:
            assert statistics.median(beside.taken[how]) < statistics.median(alone.taken[how]), how
            assert max(beside.taken[how]) <= 2 * max(alone.taken[how]), how
