"""stackmend and Octavia's own health manager see the same silence: the second of the two stands back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.heartbeats import Heartbeats
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, wait_for_rest, world

#: seconds of silence after which the health manager acts
TIMEOUT = 90
#: stackmend acts after 30, early, so that it is first on a busy machine too
OURS = {"heartbeat_margin": 60}


@pytest.fixture
def heartbeats(octavia_cloud: ControlPlane) -> Iterator[Heartbeats]:
    """Octavia's health manager, and hearts that beat."""
    octavia_cloud.start_health_manager()
    try:
        with Heartbeats(octavia_cloud) as heartbeats:
            yield heartbeats
    finally:
        octavia_cloud.stop_service("octavia-health-manager")


def test_silent_amphorae_are_preserved_before_the_health_manager_deletes_them(
    before: set[str], heartbeats: Heartbeats, scene: Scene
) -> None:
    made = single, pair, *_others = scene.create("SINGLE", "ACTIVE_STANDBY", "SINGLE", "SINGLE")
    victims = [scene.victim(single), scene.victim(pair)]
    everyone = [amphora.id for balancer in made for amphora in scene.balancers.serving(balancer)]
    heartbeats.start(*everyone)
    scene.heal(maximum_preserved_amphora_count=5, **OURS)
    time.sleep(TIMEOUT + 10)  # silence proves something only after heartbeats were observed for that long
    heartbeats.stop(*(victim.id for victim in victims), silent=35)
    scene.wait_kept(*victims)
    scene.whole(single, victims[0])
    scene.whole(pair, victims[1])
    assert {amphora.id for amphora in scene.balancers.serving(pair)} & set(everyone), "the living one was not touched"
    assert "Stale amphora" not in scene.cloud.log("octavia-health-manager")
    assert disorders(scene.cloud) == set()
    end(scene, everyone, *made)
    scene.discard()
    assert world(scene.cloud) == before


def test_the_health_manager_was_faster(before: set[str], heartbeats: Heartbeats, scene: Scene) -> None:
    (single,) = scene.create("SINGLE")
    victim = scene.victim(single)
    heartbeats.start(victim.id)
    heartbeats.stop(victim.id, silent=TIMEOUT + 60)
    wait_until(lambda: scene.balancers.status(single) == "PENDING_UPDATE", PATIENCE, "the health manager")
    scene.heal(maximum_preserved_amphora_count=5, **OURS)
    scene.balancers.wait_replaced(single, victim.id)
    wait_until(lambda: installation.settled(scene.program), PATIENCE, "an end")
    taken = {line["problem"] for line in installation.healed(scene.program, f"amphora:{victim.id}")}
    assert taken <= {"detach"}
    assert scene.kept() == {}
    assert len(scene.balancers.serving(single)) == 1
    end(scene, [victim.id], single)
    assert world(scene.cloud) == before


def test_a_silent_amphora_among_few_is_left_to_the_health_manager(
    before: set[str], heartbeats: Heartbeats, scene: Scene
) -> None:
    """It is silent for a while, on a host that is up, and comes back before the health manager acts."""
    (single,) = scene.create("SINGLE")
    amphora = scene.victim(single)
    heartbeats.start(amphora.id)
    ours = world(scene.cloud)
    scene.heal(maximum_preserved_amphora_count=5, **OURS)
    heartbeats.stop(amphora.id, silent=45)
    time.sleep(20)
    heartbeats.start(amphora.id)
    wait_until(lambda: installation.settled(scene.program), PATIENCE, "an end")
    assert scene.balancers.serving(single) == [amphora]
    assert scene.marked() == []
    assert world(scene.cloud) == ours
    end(scene, [amphora.id], single)
    assert world(scene.cloud) == before


def end(scene: Scene, amphorae: list[str], *balancers: str) -> None:
    """Use the load balancers, delete them, and forget heartbeats that came after their amphorae were gone."""
    scene.balancers.touch(*balancers)
    scene.balancers.delete(*balancers)
    for amphora in amphorae:
        scene.cloud.mariadb.execute(f"DELETE FROM amphora_health WHERE amphora_id = '{amphora}'", "octavia")
    wait_for_rest(scene.cloud)
