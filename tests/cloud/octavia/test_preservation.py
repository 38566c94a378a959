"""How many amphorae are kept, and what a stackmend leaves that is killed between any two steps."""

from __future__ import annotations

import pytest

from tests.cloud.control_plane import wait_until
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, world


def test_no_more_are_kept_than_there_may_be(before: set[str], scene: Scene) -> None:
    """Ten failures at once, of which three are kept; then one more, by the other scheme, with a smaller limit."""
    made = scene.create(*["SINGLE"] * 10)
    victims = [scene.victim(balancer) for balancer in made]
    scene.heal(maximum_preserved_amphora_count=3)
    for victim in victims:
        scene.fail(victim, "stopped")
    for balancer, victim in zip(made, victims, strict=True):
        scene.whole(balancer, victim)
    wait_until(lambda: len(scene.kept()) == 3, PATIENCE, "three preserved servers")
    kept = sorted(scene.kept().values(), key=lambda server: server.metadata["stackmend_since"])
    assert set(scene.marked()) == {server.id for server in kept}
    assert {server.id for server in kept} <= {victim.server for victim in victims}
    assert disorders(scene.cloud) == set()

    scene.program.stop()
    last = scene.victim(made[0])
    scene.heal(maximum_preserved_amphora_count=2, preservation_scheme="cycle")
    assert len(scene.kept()) == 3, "a smaller limit takes nothing away by itself"
    scene.fail(last, "stopped")
    scene.whole(made[0], last)
    wait_until(lambda: len(scene.marked()) == 2, PATIENCE, "a pool of two")
    assert set(scene.kept()) == {kept[-1].metadata["stackmend_amphora"], last.id}
    scene.end(*made)
    scene.discard()
    assert world(scene.cloud) == before


@pytest.mark.parametrize(
    "method",
    [
        {"preservation_method": "unplug"},
        {"preservation_method": "snapshot"},
        {"preservation_method": "snapshot", "preservation_keeps": "server"},
    ],
    ids=["unplug", "image", "image-and-server"],
)
def test_killed_after_each_step(before: set[str], scene: Scene, method: dict[str, str]) -> None:
    (single,) = scene.create("SINGLE")
    scene.balancers.fill(single)
    victim = scene.victim(single)
    keeps = {"maximum_preserved_amphora_count": 1, **method}
    scene.heal(**keeps)
    scene.fail(victim, "error")
    scene.silence(victim)
    kills = 0

    def done() -> bool:
        row = scene.balancers.amphora(victim.id)
        return scene.balancers.replaced(single, [victim.id]) and row.load_balancer == "-"

    while not done():
        steps = scene.steps(victim)
        wait_until(lambda steps=steps: scene.steps(victim) > steps or done(), PATIENCE, "another step")  # type: ignore[misc]
        scene.program.kill()
        kills += 1
        assert kills < 30, "no end of steps"
        scene.program.start()
    print(f"killed {kills} times")
    assert kills > 2
    scene.whole(single, victim)
    if "snapshot" in method.values():
        wait_until(lambda: set(scene.images()) == {victim.id}, PATIENCE, "the image")
        assert scene.unfinished() == []
    if method == {"preservation_method": "snapshot"}:
        wait_until(lambda: scene.marked() == [], PATIENCE, "the deletion of the server")
    if method != {"preservation_method": "snapshot"}:
        scene.wait_kept(victim)
        assert scene.is_cut_off(victim.server)
    assert disorders(scene.cloud) == set()
    scene.end(single)
    scene.discard()
    assert world(scene.cloud) == before
