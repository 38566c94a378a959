"""stackmend beside a real Octavia: amphorae fail, are replaced, and are kept for examination.

What there is in the cloud is compared before and after: nothing leaks, nothing is taken from anybody.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE, Amphora, Balancers
from tests.cloud.octavia.world import disorders, wait_for_rest, world
from tests.program import Program

#: nobody's failures here have anything in common
ALONE = {"failover_threshold": 0}


class Scene:
    """stackmend at work on some load balancers."""

    def __init__(self, cloud: ControlPlane, balancers: Balancers, program: Program) -> None:
        self.cloud = cloud
        self.balancers = balancers
        self.program = program

    @property
    def compute(self) -> Any:
        return self.cloud.admin.compute

    def heal(self, **housekeeping: object) -> None:
        """Start the daemon."""
        installation.healing(self.program, self.cloud, "failed_amphora", **ALONE, **housekeeping)

    def create(self, *topologies: str) -> list[str]:
        """Create load balancers at the same time."""
        made = [self.balancers.create(topology, wait=False) for topology in topologies]
        for balancer in made:
            self.balancers.wait_active(balancer)
        return made

    def victim(self, balancer: str) -> Amphora:
        """The amphora that is to fail: the MASTER, or the only one."""
        return self.balancers.serving(balancer)[0]

    def fail(self, amphora: Amphora, how: str) -> None:
        """Let an amphora's server be ``deleted``, ``stopped`` or in ``error``."""
        if how == "deleted":
            self.compute.delete_server(amphora.server)
        elif how == "stopped":
            self.compute.stop_server(amphora.server)
        else:
            self.compute.reset_server_state(amphora.server, "error")

    def whole(self, balancer: str, *gone: Amphora) -> None:
        """Wait until a load balancer is whole again without these, and nothing reminds it of them."""
        self.balancers.wait_replaced(balancer, *(amphora.id for amphora in gone))

        def forgotten() -> bool:
            return all(amphora.status == "ALLOCATED" for amphora in self.balancers.amphorae(balancer))

        wait_until(forgotten, PATIENCE, f"the rows of deleted amphorae off {balancer}")

    def kept(self) -> dict[str, Any]:
        """The servers that are preserved, by amphora; all is done for them."""
        found = self.compute.servers(all_projects=True, tags="stackmend-preserved")
        marked = [server for server in found if server.metadata.get("stackmend_state") == "preserved"]
        return {server.metadata["stackmend_amphora"]: server for server in marked}

    def images(self) -> dict[str, Any]:
        """The images that are preserved, by amphora."""
        image: Any = self.cloud.admin.image
        found = [one for one in image.images() if "stackmend_amphora" in one.properties and one.is_protected]
        return {one.properties["stackmend_amphora"]: one for one in found}

    def wait_kept(self, *amphorae: Amphora) -> None:
        """Wait until exactly these are preserved as servers."""
        wanted = {amphora.id for amphora in amphorae}
        wait_until(lambda: set(self.kept()) == wanted, PATIENCE, "the preserved servers")

    def is_cut_off(self, server: str) -> bool:
        """Whether a server has no port at all, so that it can answer for nobody's address."""
        return not self.cloud.mariadb.execute(f"SELECT id FROM ports WHERE device_id = '{server}'", "neutron")

    def tell_lag(self, *amphorae: Amphora) -> None:
        """Print how long it took from Nova's notification to our request; it is no assertion, for the machine is busy."""
        for amphora in amphorae:
            for line in installation.healed(self.program, f"amphora:{amphora.id}"):
                if line["problem"].startswith("failover"):
                    print(f"lag of {amphora.id} from {line['hint']} to {line['problem']}: {line['lag_s']} s")

    def end(self, *balancers: str) -> None:
        """Use the load balancers as their owners do, and delete them."""
        for balancer in balancers:
            self.balancers.touch(balancer)
        for balancer in balancers:
            self.balancers.delete(balancer)
        wait_for_rest(self.cloud)


@pytest.fixture
def scene(octavia_cloud: ControlPlane, balancers: Balancers, stackmend: Program) -> Scene:
    return Scene(octavia_cloud, balancers, stackmend)


@pytest.fixture
def before(octavia_cloud: ControlPlane, bystanders: None) -> set[str]:
    """What there was before the test."""
    return world(octavia_cloud)


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


def test_unplugged_amphorae_are_kept_and_harm_nobody(before: set[str], scene: Scene) -> None:
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
    discard(scene)
    assert world(scene.cloud) == before


@pytest.mark.parametrize("keeps", ["image", "server"])
def test_images_of_amphorae_are_kept(before: set[str], scene: Scene, keeps: str) -> None:
    made = filled, *_others = scene.create("SINGLE", "SINGLE", "ACTIVE_STANDBY")
    scene.balancers.fill(filled)
    scene.heal(maximum_preserved_amphora_count=10, preservation_method="snapshot", preservation_keeps=keeps)
    victims = [scene.victim(balancer) for balancer in made]
    for victim, way in zip(victims, ("stopped", "error", "stopped"), strict=True):
        scene.fail(victim, way)
    for balancer, victim in zip(made, victims, strict=True):
        scene.whole(balancer, victim)
    scene.tell_lag(*victims)
    wait_until(lambda: set(scene.images()) == {victim.id for victim in victims}, PATIENCE, "the images")
    for image in scene.images().values():
        assert (image.status, image.visibility, image.tags) == ("active", "private", [])
    scene.wait_kept(*(victims if keeps == "server" else ()))
    for server in scene.kept().values():
        assert server.status in ("SHUTOFF", "SHELVED_OFFLOADED")
        assert scene.is_cut_off(server.id)
    assert disorders(scene.cloud) == set()
    scene.end(*made)
    assert set(scene.images()) == {victim.id for victim in victims}
    discard(scene)
    assert world(scene.cloud) == before


def discard(scene: Scene) -> None:
    """Delete whatever is preserved, as an operator does."""
    for amphora in scene.kept().keys() | scene.images().keys():
        done = scene.program.run("amphora", "preserved", "delete", amphora)
        assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: not scene.kept() and not scene.images(), PATIENCE, "an empty pool")
    wait_for_rest(scene.cloud)
