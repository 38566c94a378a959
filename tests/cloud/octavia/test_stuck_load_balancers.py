"""A load balancer that nobody works on is freed; one whose request only waits is not."""

from __future__ import annotations

from tests.cloud.control_plane import wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, world
from tests.cloud.octavia.wreck import age


def sweep(scene: Scene) -> None:
    """Look at all load balancers once, and heal."""
    journal = {"connection": f"sqlite:///{scene.program.folder}/journal.sqlite"}
    scene.program.configure({"journal": journal, **installation.options(scene.cloud, "stuck_load_balancers")})
    swept = scene.program.run("sweep", "stuck_load_balancers")
    print(swept.stdout, swept.stderr)


def test_a_worker_died_in_the_middle(before: set[str], scene: Scene) -> None:
    (single,) = scene.create("SINGLE")
    victim = scene.victim(single)
    scene.balancers.kill_worker_mid_flow(single)
    sweep(scene)
    assert scene.balancers.status(single) == "PENDING_UPDATE", "a flow may be at work on it"

    def booted() -> bool:
        building = "SELECT uuid FROM instances WHERE deleted = 0 AND vm_state = 'building'"
        return not scene.cloud.mariadb.execute(building, "nova_cell1")

    wait_until(booted, PATIENCE, "the end of the boot")
    age(scene.cloud)

    def freed() -> bool:
        sweep(scene)
        return scene.balancers.status(single) != "PENDING_UPDATE" or bool(scene.balancers.replaced(single, [victim.id]))

    wait_until(freed, PATIENCE, "a load balancer that is free")

    def whole() -> bool:
        sweep(scene)
        return scene.balancers.replaced(single, [victim.id])

    wait_until(whole, PATIENCE, "a load balancer that is whole")
    assert disorders(scene.cloud) == set()
    scene.end(single)
    assert world(scene.cloud) == before


def test_a_request_that_waits_for_a_worker_is_carried_out_once(before: set[str], scene: Scene) -> None:
    (single,) = scene.create("SINGLE")
    victim = scene.victim(single)
    scene.cloud.stop_service("octavia-worker")
    try:
        scene.balancers.api.failover_load_balancer(single)
        age(scene.cloud)
        sweep(scene)
        assert scene.balancers.status(single) == "PENDING_UPDATE"
    finally:
        scene.cloud.start_service("octavia-worker")
    scene.balancers.wait_replaced(single, victim.id)
    assert disorders(scene.cloud) == set()
    scene.end(single)
    assert world(scene.cloud) == before
