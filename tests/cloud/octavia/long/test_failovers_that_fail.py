"""A failover that cannot succeed is repeated with growing pauses, and then reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import wait_for_rest

#: seconds in ERROR before the second and the third attempt
LATER = (300, 1800)


@contextmanager
def no_image(cloud: ControlPlane) -> Iterator[None]:
    """Let each failover fail: Octavia finds no image."""
    image: Any = cloud.admin.image
    (booted,) = [found for found in image.images() if "amphora" in found.tags]
    image.remove_tag(booted, "amphora")
    try:
        yield
    finally:
        image.add_tag(booted, "amphora")


def requests(scene: Scene) -> int:
    """Return the number of failovers that were requested."""
    return scene.program.log.read_text().count("asked Octavia to replace")


def let_pass(scene: Scene, balancer: str, seconds: int) -> None:
    """Let the rows of a load balancer be older."""
    for table, column in (("load_balancer", "id"), ("amphora", "load_balancer_id")):
        scene.cloud.mariadb.execute(
            f"UPDATE {table} SET updated_at = updated_at - INTERVAL {seconds} SECOND WHERE {column} = '{balancer}'",
            "octavia",
        )


def create_long_ago(scene: Scene, topology: str) -> str:
    """Create a load balancer of yesterday: a row is at most as old as its creation, which may not change later."""
    (balancer,) = scene.create(topology)
    for table, column in (("load_balancer", "id"), ("amphora", "load_balancer_id")):
        scene.cloud.mariadb.execute(
            f"UPDATE {table} SET created_at = created_at - INTERVAL 1 DAY WHERE {column} = '{balancer}'", "octavia"
        )
    return balancer


def look_again(scene: Scene) -> None:
    """Let the daemon inspect now: it waits by its own clock, which rows that grow older do not move."""
    waiting = [str(row["id"]) for row in scene.program.json("work", "list", "--handler", "failed_amphora")]
    assert scene.program.run("work", "retry", *waiting).returncode == 0


def reported(scene: Scene) -> str:
    return " ".join(str(line) for line in scene.program.json("history", "--outcome", "refused"))


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_pauses_grow_and_outlive_a_restart(scene: Scene, topology: str) -> None:
    balancer = create_long_ago(scene, topology)
    victim = scene.victim(balancer)
    with no_image(scene.cloud):
        scene.heal(maximum_preserved_amphora_count=0)
        scene.fail(victim, "stopped")
        wait_until(lambda: requests(scene) == 2, PATIENCE, "the first attempt and its repetition")
        for number, seconds in enumerate(LATER, 3):
            wait_until(lambda: scene.balancers.status(balancer) == "ERROR", PATIENCE, "ERROR")
            scene.program.kill()
            scene.program.start()
            time.sleep(25)
            assert requests(scene) == number - 1, "a pause outlives a restart"
            let_pass(scene, balancer, seconds)
            look_again(scene)
            wait_until(lambda number=number: requests(scene) == number, PATIENCE, "the next attempt")  # type: ignore[misc]
        wait_until(lambda: scene.balancers.status(balancer) == "ERROR", PATIENCE, "ERROR")
        let_pass(scene, balancer, LATER[-1])
        look_again(scene)
        wait_until(lambda: "failovers within a week did not help" in reported(scene), PATIENCE, "a report")
        time.sleep(20)
        assert requests(scene) == 4
    scene.program.stop()
    scene.balancers.delete(balancer)
    wait_for_rest(scene.cloud)


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_without_its_vip_port_a_load_balancer_is_only_reported(scene: Scene, topology: str) -> None:
    (balancer,) = scene.create(topology)
    scene.balancers.break_failover(balancer)
    network: Any = scene.cloud.admin.network
    network.delete_port(network.find_port(f"octavia-lb-{balancer}").id)
    rows = scene.balancers.amphorae(balancer)
    let_pass(scene, balancer, 3600)
    scene.heal(maximum_preserved_amphora_count=5)
    wait_until(lambda: "its VIP port is gone" in reported(scene), PATIENCE, "a report")
    time.sleep(20)
    assert requests(scene) == 0
    assert scene.marked() == []
    assert scene.balancers.amphorae(balancer) == rows
    scene.program.stop()
    scene.balancers.delete(balancer)
    wait_for_rest(scene.cloud)
