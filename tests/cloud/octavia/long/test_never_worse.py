"""At no moment is a load balancer worse off with stackmend than with Octavia alone: its own health manager runs beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE, Amphora
from tests.cloud.octavia.heartbeats import Heartbeats
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, wait_for_rest, world
from tests.program import Program
from tests.relay import Relay
from tests.servers.server import HOST

#: seconds of silence after which the health manager acts
TIMEOUT = 90
PRESERVING = {"maximum_preserved_amphora_count": 5, "heartbeat_margin": 60}


@pytest.fixture
def heartbeats(octavia_cloud: ControlPlane) -> Iterator[Heartbeats]:
    octavia_cloud.start_health_manager()
    try:
        with Heartbeats(octavia_cloud) as heartbeats:
            yield heartbeats
    finally:
        octavia_cloud.stop_service("octavia-health-manager")


class Killer(Relay):
    """Kills stackmend before its first request of a failover arrives."""

    def __init__(self, port: int, program: Program) -> None:
        super().__init__(HOST, port)
        self._program = program
        self.killed = threading.Event()

    def _heard(self, data: bytes) -> bool:
        if self.killed.is_set() or b"/failover" not in data:
            return False
        self._program.kill()
        self.killed.set()
        return True


@contextmanager
def octavia_behind(cloud: ControlPlane, port: int) -> Iterator[None]:
    """Let Keystone's catalogue lead to another port."""
    identity: Any = cloud.admin.identity
    (service,) = identity.services(type="load-balancer")
    ends = [(end, end.url) for end in identity.endpoints(service_id=service.id)]
    for end, url in ends:
        identity.update_endpoint(end, url=url.replace(cloud.endpoint("octavia"), f"http://{HOST}:{port}"))
    try:
        yield
    finally:
        for end, url in ends:
            identity.update_endpoint(end, url=url)


def is_untouched(scene: Scene, amphora: Amphora) -> bool:
    """Whether an amphora has its row, its server and its ports."""
    return scene.balancers.amphora(amphora.id) == amphora and not scene.is_cut_off(amphora.server)


def end(scene: Scene, amphorae: list[str], *balancers: str) -> None:
    """Use the load balancers, delete them, and forget heartbeats that came after their amphorae were gone."""
    scene.balancers.touch(*balancers)
    scene.balancers.delete(*balancers)
    for amphora in amphorae:
        scene.cloud.mariadb.execute(f"DELETE FROM amphora_health WHERE amphora_id = '{amphora}'", "octavia")
    wait_for_rest(scene.cloud)


def test_while_the_api_is_away_the_health_manager_replaces(
    before: set[str], heartbeats: Heartbeats, scene: Scene
) -> None:
    made = single, pair = scene.create("SINGLE", "ACTIVE_STANDBY")
    victims = [scene.victim(balancer) for balancer in made]
    everyone = [amphora.id for balancer in made for amphora in scene.balancers.serving(balancer)]
    heartbeats.start(*everyone)
    scene.heal(**PRESERVING)
    scene.cloud.stop_service("octavia-api")
    try:
        for victim in victims:
            scene.fail(victim, "stopped")
        heartbeats.stop(*(victim.id for victim in victims), silent=35)
        time.sleep(15)
        for victim in victims:
            assert is_untouched(scene, victim)
        for balancer, victim in zip(made, victims, strict=True):
            scene.balancers.wait_replaced(balancer, victim.id)
        assert "Stale amphora" in scene.cloud.log("octavia-health-manager"), "Octavia's health manager replaced them"
    finally:
        scene.cloud.start_service("octavia-api")
    scene.whole(single, victims[0])
    scene.whole(pair, victims[1])
    assert scene.kept() == {}
    assert disorders(scene.cloud) == set()
    end(scene, everyone, *made)
    assert world(scene.cloud) == before


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_killed_before_the_request_arrives_it_recovers_though_it_is_paused(
    before: set[str], heartbeats: Heartbeats, scene: Scene, topology: str
) -> None:
    (balancer,) = scene.create(topology)
    victim = scene.victim(balancer)
    everyone = [amphora.id for amphora in scene.balancers.serving(balancer)]
    heartbeats.start(*everyone)
    api = int(scene.cloud.endpoint("octavia").rpartition(":")[2])
    killer = Killer(api, scene.program)
    try:
        with octavia_behind(scene.cloud, killer.port):
            scene.heal(**PRESERVING)
            heartbeats.stop(victim.id, silent=35)
            scene.fail(victim, "stopped")
            wait_until(killer.killed.is_set, PATIENCE, "the request of a failover")
    finally:
        killer.close()
    row = scene.balancers.amphora(victim.id)
    assert (row.status, row.server) == ("ERROR", "-"), "this is the state that Octavia never repairs"
    done = scene.program.run("handler", "pause", "failed_amphora")
    assert done.returncode == 0, done.stderr
    scene.program.start()
    scene.balancers.wait_replaced(balancer, victim.id)
    # The pause holds back what the load balancer does not need: the DELETED row and the preserved server.
    done = scene.program.run("handler", "resume", "failed_amphora")
    assert done.returncode == 0, done.stderr
    scene.whole(balancer, victim)
    scene.wait_kept(victim)
    assert scene.is_cut_off(victim.server)
    assert disorders(scene.cloud) == set()
    end(scene, everyone, balancer)
    scene.discard()
    assert world(scene.cloud) == before


def test_silence_of_all_fails_none_over(before: set[str], heartbeats: Heartbeats, scene: Scene) -> None:
    """All records are old, then the health manager restarts, then the database is away."""
    made = scene.create("SINGLE", "SINGLE", "ACTIVE_STANDBY")
    alive = [amphora for balancer in made for amphora in scene.balancers.serving(balancer)]
    everyone = [amphora.id for amphora in alive]
    heartbeats.start(*everyone)
    scene.heal(**PRESERVING)
    time.sleep(TIMEOUT + 5)  # silence proves something from now on
    heartbeats.stop(*everyone, silent=45)
    time.sleep(10)
    for amphora in everyone:  # one after the other is heard again
        heartbeats.start(amphora)
        time.sleep(3)
    scene.cloud.stop_service("octavia-health-manager")
    time.sleep(45)
    scene.cloud.start_service("octavia-health-manager")
    time.sleep(15)
    scene.cloud.mariadb.pause()
    time.sleep(50)
    scene.cloud.mariadb.resume()
    time.sleep(30)
    assert [amphora for amphora in alive if not is_untouched(scene, amphora)] == []
    assert scene.marked() == []
    assert [line for one in everyone for line in installation.healed(scene.program, f"amphora:{one}")] == []
    scene.program.stop()
    end(scene, everyone, *made)
    assert world(scene.cloud) == before
