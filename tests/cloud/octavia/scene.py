"""stackmend beside a real Octavia whose amphorae fail."""

from __future__ import annotations

from typing import Any

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE, Amphora, Balancers
from tests.cloud.octavia.world import wait_for_rest
from tests.program import Program

#: nobody's failures here have anything in common
ALONE = {"failover_threshold": 0}


def is_request(line: dict[str, Any]) -> bool:
    """Return whether a heal in the history asked Octavia for a failover."""
    return any(text in line["action"] for text in ("asked Octavia to replace", "asked it to replace"))


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
        begun = [(topology, self.balancers.create(topology, wait=False)) for topology in topologies]
        return [self._active(topology, balancer) for topology, balancer in begun]

    def _active(self, topology: str, balancer: str) -> str:
        """Wait for it, or for another one in its place: Nova may put both amphorae of a pair on the same host, thrice."""
        for _ in range(5):
            if self.balancers.wait_made(balancer) == "ACTIVE":
                return balancer
            self.balancers.delete(balancer)
            balancer = self.balancers.create(topology, wait=False)
        raise AssertionError(f"no load balancer of topology {topology} becomes ACTIVE")

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

    def silence(self, amphora: Amphora) -> None:
        """Let it have sent a heartbeat once, and none for long."""
        self.cloud.mariadb.execute(
            "INSERT INTO amphora_health (amphora_id, last_update, busy)"
            f" VALUES ('{amphora.id}', utc_timestamp() - INTERVAL 1 HOUR, 0)",
            "octavia",
        )

    def whole(self, balancer: str, *gone: Amphora) -> None:
        """Wait until a load balancer is whole again without these, and nothing reminds it of them."""
        self.balancers.wait_replaced(balancer, *(amphora.id for amphora in gone))
        if not self.cloud.release.trips_over_deleted_amphorae:
            return  # nobody detaches them

        def forgotten() -> bool:
            return all(amphora.status == "ALLOCATED" for amphora in self.balancers.amphorae(balancer))

        wait_until(forgotten, PATIENCE, f"the rows of deleted amphorae off {balancer}")

    def kept(self) -> dict[str, Any]:
        """The servers that are preserved, by amphora; all is done for them."""
        found = self.compute.servers(all_projects=True, tags="stackmend-preserved")
        marked = [server for server in found if server.metadata.get("stackmend_state") == "preserved"]
        return {server.metadata["stackmend_amphora"]: server for server in marked}

    def marked(self) -> list[str]:
        """The servers that are marked, whatever is done with them."""
        return [server.id for server in self.compute.servers(all_projects=True, tags="stackmend-preserved")]

    def unfinished(self) -> list[str]:
        """The images that were begun and are not complete."""
        return [one.id for one in self._made() if one.status != "active"]

    def images(self) -> dict[str, Any]:
        """The images that are preserved, by amphora."""
        return {one.properties["stackmend_amphora"]: one for one in self._made() if one.is_protected}

    def _made(self) -> list[Any]:
        """The images of amphorae; one that is being deleted may be listed without properties."""
        image: Any = self.cloud.admin.image
        return [one for one in image.images() if "stackmend_amphora" in (one.properties or {})]

    def wait_kept(self, *amphorae: Amphora) -> None:
        """Wait until exactly these are preserved as servers."""
        wanted = {amphora.id for amphora in amphorae}
        wait_until(lambda: set(self.kept()) == wanted, PATIENCE, "the preserved servers")

    def is_cut_off(self, server: str) -> bool:
        """Whether a server has no port, so that it answers for no address."""
        return not self.cloud.mariadb.execute(f"SELECT id FROM ports WHERE device_id = '{server}'", "neutron")

    def steps(self, amphora: Amphora) -> int:
        """How many steps have been taken for an amphora, by the log."""
        lines = self.program.log.read_text().splitlines()
        return sum(f"amphora:{amphora.id}: healed" in line for line in lines)

    def tell_lag(self, *amphorae: Amphora) -> None:
        """Print how long it took from Nova's notification to our request; it is no assertion, for the machine is busy."""
        for amphora in amphorae:
            for line in installation.healed(self.program, f"amphora:{amphora.id}"):
                if is_request(line):
                    print(f"lag of {amphora.id} from {line['hint']} to {line['problem']}: {line['lag_s']} s")

    def end(self, *balancers: str) -> None:
        """Use the load balancers as their owners do, and delete them."""
        self.balancers.touch(*balancers)
        self.balancers.delete(*balancers)
        wait_for_rest(self.cloud)

    def discard(self) -> None:
        """Delete whatever is preserved, as an operator does."""
        for amphora in self.kept().keys() | self.images().keys():
            done = self.program.run("amphora", "preserved", "delete", amphora)
            assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: not self.kept() and not self.images(), PATIENCE, "an empty pool")
        wait_for_rest(self.cloud)

    def clear(self) -> None:
        """Delete whatever is marked, by force."""
        image: Any = self.cloud.admin.image
        for one in self._made():
            image.update_image(one, is_protected=False)
            image.delete_image(one)
        for server in self.marked():
            self.cloud.delete(server)
