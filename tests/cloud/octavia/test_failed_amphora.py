"""stackmend beside a real Octavia: amphorae fail, are replaced, and are kept for examination.

What there is in the cloud is compared before and after: nothing leaks, nothing is taken from anybody.
"""

from __future__ import annotations

from tests.cloud.control_plane import wait_until
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, world


def test_whatever_happens_to_its_server_an_amphora_is_replaced(before: set[str], scene: Scene) -> None:
    ways = ("deleted", "stopped", "error", "deleted")
    made = scene.create("SINGLE", "SINGLE", "SINGLE", "ACTIVE_STANDBY")
    scene.balancers.fill(made[0])
    scene.heal(maximum_preserved_amphora_count=0)
    victims = [scene.victim(balancer) for balancer in made]
    for victim, way in zip(victims, ways, strict=True):
        scene.fail(victim, way)
    for balancer, victim in zip(made, victims, strict=True):
        scene.whole(balancer, victim)
    scene.tell_lag(*victims)
    assert scene.kept() == {}
    assert disorders(scene.cloud) == set()
    scene.end(*made)
    assert world(scene.cloud) == before


def test_one_after_the_other_is_replaced(before: set[str], scene: Scene) -> None:
    ways = ("deleted", "stopped", "error")
    made = scene.create("SINGLE", "SINGLE", "SINGLE")
    scene.heal(maximum_preserved_amphora_count=0)
    for balancer, way in zip(made, ways, strict=True):
        victim = scene.victim(balancer)
        scene.fail(victim, way)
        scene.whole(balancer, victim)
        scene.tell_lag(victim)
    assert disorders(scene.cloud) == set()
    scene.end(*made)
    assert world(scene.cloud) == before


def test_unplugged_amphorae_are_preserved_and_do_no_harm(before: set[str], scene: Scene) -> None:
    made = filled, pair, _plain = scene.create("SINGLE", "ACTIVE_STANDBY", "SINGLE")
    scene.balancers.fill(filled)
    scene.heal(maximum_preserved_amphora_count=10, preservation_method="unplug")
    stopped, master, deleted = (scene.victim(balancer) for balancer in made)
    for victim, way in ((stopped, "stopped"), (master, "error"), (deleted, "deleted")):
        scene.fail(victim, way)
    for balancer, victim in zip(made, (stopped, master, deleted), strict=True):
        scene.whole(balancer, victim)
    scene.tell_lag(stopped, master, deleted)
    scene.wait_kept(stopped, master)
    for amphora in (stopped, master):
        server = scene.kept()[amphora.id]
        assert (server.id, server.name) == (amphora.server, f"preserved-amphora-{amphora.id}")
        assert server.is_locked
        assert scene.is_cut_off(server.id)
    assert disorders(scene.cloud) == set()

    # the kept MASTER gives its host to the next failover of its pair
    backup = next(amphora for amphora in scene.balancers.serving(pair) if amphora.role == "BACKUP")
    scene.fail(backup, "stopped")
    scene.whole(pair, master, backup)
    scene.wait_kept(stopped, master, backup)
    scene.end(*made)
    assert set(scene.kept()) == {stopped.id, master.id, backup.id}
    scene.discard()
    assert world(scene.cloud) == before


def test_images_of_amphorae_are_kept(before: set[str], scene: Scene) -> None:
    made = filled, _plain = scene.create("SINGLE", "SINGLE")
    scene.balancers.fill(filled)
    scene.heal(maximum_preserved_amphora_count=10, preservation_method="snapshot")
    victims = [scene.victim(balancer) for balancer in made]
    for victim, way in zip(victims, ("stopped", "error"), strict=True):
        scene.fail(victim, way)
    for balancer, victim in zip(made, victims, strict=True):
        scene.whole(balancer, victim)
    scene.tell_lag(*victims)
    wait_until(lambda: set(scene.images()) == {victim.id for victim in victims}, PATIENCE, "the images")
    wait_until(lambda: scene.marked() == [], PATIENCE, "the deletion of their servers")
    for image in scene.images().values():
        assert (image.status, image.visibility, image.tags) == ("active", "private", [])
    assert scene.kept() == {}
    assert disorders(scene.cloud) == set()
    scene.end(*made)
    assert set(scene.images()) == {victim.id for victim in victims}
    scene.discard()
    assert world(scene.cloud) == before


def test_an_image_is_kept_beside_its_server(before: set[str], scene: Scene) -> None:
    (pair,) = scene.create("ACTIVE_STANDBY")
    scene.heal(maximum_preserved_amphora_count=10, preservation_method="snapshot", preservation_keeps="server")
    victim = scene.victim(pair)
    scene.fail(victim, "error")
    scene.whole(pair, victim)
    wait_until(lambda: set(scene.images()) == {victim.id}, PATIENCE, "the image")
    scene.wait_kept(victim)
    assert scene.is_cut_off(victim.server)
    assert disorders(scene.cloud) == set()
    scene.end(pair)
    assert set(scene.kept()) == set(scene.images()) == {victim.id}
    scene.discard()
    assert world(scene.cloud) == before
