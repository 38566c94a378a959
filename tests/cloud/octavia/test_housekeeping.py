"""What the specification of the Housekeeping Manager asks for, beside a real Octavia, Nova and Neutron."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE, Balancers
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import wait_for_rest, world
from tests.cloud.octavia.wreck import Wreck, age


@pytest.fixture
def wreck(octavia_cloud: ControlPlane, balancers: Balancers) -> Iterator[Wreck]:
    with Wreck(octavia_cloud) as wreck:
        yield wreck


def deactivate(wreck: Wreck) -> str:
    """Make an amphora in ERROR on no load balancer, with a server that has a port; return its id."""
    amphora = str(uuid.uuid4())
    port = wreck.port(f"octavia-lb-vrrp-{amphora}")
    wreck.row("ERROR", wreck.server(amphora, networks=[{"port": port}]), amphora)
    return amphora


def house(scene: Scene, scheme: str) -> None:
    """Let every row be old, and start the daemon, which preserves one amphora at most."""
    scene.program.stop()
    age(scene.cloud, scene.program)
    installation.healing(
        *(scene.program, scene.cloud, "deactivated_amphorae"),
        maximum_preserved_amphora_count=1,
        preservation_method="unplug",
        preservation_scheme=scheme,
        housekeeping_interval=5,
    )


def alive(scene: Scene, *amphorae: str) -> set[str]:
    """Return which of these amphorae have a row that is not DELETED, or a server."""
    servers = {server.name for server in scene.compute.servers(all_projects=True)}
    return {
        amphora
        for amphora in amphorae
        if scene.balancers.amphora(amphora).status != "DELETED" or f"amphora-{amphora}" in servers
    }


def test_deactivated_amphorae_are_preserved_while_there_is_room(before: set[str], scene: Scene, wreck: Wreck) -> None:
    # By the server of a serving amphora, stackmend sees that database and cloud belong together.
    (balancer,) = scene.create("SINGLE")
    first, second = deactivate(wreck), deactivate(wreck)
    house(scene, "keep")
    wait_until(lambda: len(scene.kept()) == 1 and not alive(scene, first, second), PATIENCE, "one that is preserved")
    [kept] = scene.kept()
    assert kept in (first, second)
    assert scene.is_cut_off(scene.kept()[kept].id)

    third = deactivate(wreck)
    house(scene, "cycle")
    wait_until(lambda: set(scene.kept()) == {third} and not alive(scene, third), PATIENCE, "the exchange")
    assert scene.is_cut_off(scene.kept()[third].id)
    assert scene.marked() == [scene.kept()[third].id], "the server of the older one is deleted"
    scene.discard()
    scene.end(balancer)
    assert world(scene.cloud) == before


def test_the_mac_of_a_preserved_amphora_is_given_to_another_server(before: set[str], scene: Scene) -> None:
    (balancer,) = scene.create("SINGLE")
    scene.heal(maximum_preserved_amphora_count=1, preservation_method="unplug")
    victim = scene.victim(balancer)
    network: Any = scene.cloud.admin.network
    mac = network.get_port(victim.vrrp_port).mac_address
    scene.fail(victim, "stopped")
    scene.whole(balancer, victim)
    scene.wait_kept(victim)

    port = network.create_port(network_id=network.find_network("tenant").id, mac_address=mac)
    heir = scene.cloud.boot("heir", networks=[{"port": port.id}])
    released = scene.program.run("amphora", "preserved", "release", victim.id)
    assert released.returncode == 0, released.stdout + released.stderr
    scene.compute.start_server(victim.server)
    former = scene.cloud.wait_for_server(victim.server)
    assert scene.cloud.mariadb.execute(f"SELECT id FROM ports WHERE mac_address = '{mac}'", "neutron").split() == [
        port.id
    ]
    assert former.addresses == {}
    assert scene.is_cut_off(former.id), "it cannot answer for an address of the other server"
    scene.balancers.touch(balancer)

    for server in (heir.id, former.id):
        scene.cloud.delete(server)
    network.delete_port(port.id)
    scene.end(balancer)
    wait_for_rest(scene.cloud)
    assert world(scene.cloud) == before
