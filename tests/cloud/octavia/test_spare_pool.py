"""Spares keep room for failovers in a cloud that is otherwise full."""

from __future__ import annotations

import uuid
from typing import Any

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import world
from tests.cloud.octavia.wreck import builds_held

_FREE = """
SELECT p.name, FLOOR((i.total - i.reserved) * i.allocation_ratio)
    - IFNULL((SELECT SUM(a.used) FROM allocations a
        WHERE a.resource_provider_id = p.id AND a.resource_class_id = i.resource_class_id), 0)
FROM resource_providers p JOIN inventories i ON i.resource_provider_id = p.id
WHERE i.resource_class_id = 1
"""


def placeholders(scene: Scene) -> list[Any]:
    """All that belong to the pool."""
    return list(scene.compute.servers(all_projects=True, tags="stackmend-spare"))


def spares(scene: Scene) -> list[Any]:
    """The placeholders that are ready."""
    return [server for server in placeholders(scene) if server.status == "SHUTOFF"]


def building(scene: Scene) -> set[str]:
    """The names of the servers that Nova builds."""
    return {server.name for server in scene.compute.servers(all_projects=True) if server.status == "BUILD"}


def turns(scene: Scene) -> int:
    """How often the size of the pool was logged."""
    return scene.program.log.read_text().count("spare amphora pool: ")


def fill(cloud: ControlPlane) -> list[str]:
    """Leave no memory free on any host; the servers that take it."""
    taken = []
    for line in cloud.mariadb.execute(_FREE, "placement").splitlines():
        host, free = line.split("\t")
        name = f"all-of-{uuid.uuid4().hex[:6]}"
        if int(float(free)) > 0:
            cloud.admin.compute.create_flavor(id=name, name=name, ram=int(float(free)), vcpus=1, disk=1)
            taken.append(cloud.boot(name, host=host, flavor=name).id)
            cloud.admin.compute.delete_flavor(name)
    return taken


def test_a_full_cloud_has_room_for_failovers_while_there_are_spares(before: set[str], scene: Scene) -> None:
    (single,) = scene.create("SINGLE")
    first = scene.victim(single)
    quick = {"failover_threshold": 0, "housekeeping_interval": 5, "maximum_deploying_amphora_count": 2}
    with builds_held(scene.cloud):
        other = scene.balancers.create(wait=False)
        wait_until(lambda: len(building(scene)) == 1, PATIENCE, "a build of Octavia's own")
        healing = ("spare_pool", "failed_amphora")
        installation.healing(scene.program, scene.cloud, *healing, spare_amphora_pool_size=3, **quick)
        wait_until(lambda: len(building(scene)) == 2, PATIENCE, "a spare beside it")
        until = turns(scene) + 4
        wait_until(lambda: turns(scene) >= until, PATIENCE, "some turns of the housekeeping")
        assert len(building(scene)) == 2, "not more than may be building, with Octavia's own"
        assert len(placeholders(scene)) == 1

    def filled() -> bool:
        assert len(building(scene)) <= 2
        return len(spares(scene)) == 3

    wait_until(filled, PATIENCE, "three spares")
    scene.balancers.wait_active(other)
    told = "spare amphora pool: 3 of 3 ready"
    wait_until(lambda: told in scene.program.log.read_text(), PATIENCE, "the log to say so")

    taken = fill(scene.cloud)
    try:
        scene.fail(first, "stopped")
        scene.whole(single, first)
        # Where Octavia asks Nova before the first spare is gone, the next attempt gets the room of the second.
        assert scene.program.log.read_text().count("made room for a failover") in {1, 2}
        scene.program.stop()
        for spare in placeholders(scene):
            scene.cloud.delete(spare.id)
        taken += fill(scene.cloud)
        installation.healing(scene.program, scene.cloud, "failed_amphora", **quick)
        second = scene.victim(single)
        scene.fail(second, "stopped")
        wait_until(lambda: scene.balancers.status(single) == "ERROR", PATIENCE, "a failover without room")
    finally:
        for server in taken:
            scene.cloud.delete(server)
    scene.whole(single, first, second)
    scene.program.stop()
    scene.end(single, other)
    assert world(scene.cloud) == before
