"""Spares keep room for failovers in a cloud that is otherwise full."""

from __future__ import annotations

import uuid
from typing import Any

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import wait_for_rest, world

_FREE = """
SELECT p.name, FLOOR((i.total - i.reserved) * i.allocation_ratio)
    - IFNULL((SELECT SUM(a.used) FROM allocations a
        WHERE a.resource_provider_id = p.id AND a.resource_class_id = i.resource_class_id), 0)
FROM resource_providers p JOIN inventories i ON i.resource_provider_id = p.id
WHERE i.resource_class_id = 1
"""


def spares(scene: Scene) -> list[Any]:
    """The placeholders that are ready."""
    found = scene.compute.servers(all_projects=True, tags="stackmend-spare")
    return [server for server in found if server.status == "SHUTOFF"]


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
    on = ("spare_pool", "failed_amphora")
    (single,) = scene.create("SINGLE")
    first = scene.victim(single)
    quick = {"failover_threshold": 0, "housekeeping_interval": 5, "maximum_deploying_amphora_count": 3}
    installation.healing(scene.program, scene.cloud, *on, spare_amphora_pool_size=3, **quick)
    wait_until(lambda: len(spares(scene)) == 3, PATIENCE, "three spares")
    taken = fill(scene.cloud)
    try:
        scene.fail(first, "stopped")
        scene.whole(single, first)
        scene.program.stop()
        for spare in spares(scene):
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
    scene.balancers.delete(single)
    for spare in scene.compute.servers(all_projects=True, tags="stackmend-spare"):
        scene.cloud.delete(spare.id)
    wait_for_rest(scene.cloud)
    assert world(scene.cloud) == before
