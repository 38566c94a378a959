"""A cloud in which as much has drifted as one cloud can hold, made by breaking it.

Services die in the middle of what they do, Placement is told by hand what an operator tells it by mistake, and two
photographs are taken: ``at_rest``, when everything has come to an end, and ``busy``, with a build and an evacuation under
way. What no service of Nova's ever does (a row that a restored backup has lost) is left to the tests, on their copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.cloud import drift
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.parity import Photograph, photograph

#: Servers by name, and on which host each is booted. The first is the oldest of its cell.
SERVERS = {
    "first": "compute-1",  # nothing is wrong with it
    "missing": "compute-1",  # holds nothing
    "elsewhere": "compute-1",  # moved here from compute-2, of which it still has its allocation
    "soft-deleted": "compute-1",  # is soft-deleted, and holds nothing
    "evacuated": "compute-1",  # left its dead host, of which it still holds something
    "evacuating": "compute-1",  # is about to: only in the busy photograph
    "owner": "compute-2",  # holds what it should, for another project
    "twice": "compute-2",  # holds twice what it should
    "resized": "compute-2",  # waits for confirmation; nothing is wrong
    "shelved": "compute-2",  # is offloaded; nothing is wrong
    "deleted": "compute-2",  # was deleted; nothing is wrong
    "neighbour": "compute-3",  # nothing is wrong with it
    "other-cell": "compute-3",  # holds nothing
    "leaked": "compute-3",  # was deleted, and still holds something
}
#: Servers with a port: those whose resources change only where Neutron binds it to their host.
PLUGGED = ("missing", "elsewhere", "soft-deleted", "evacuated", "twice", "other-cell")
#: A host that nobody has mapped, and one with two nodes, of which only one can be in its aggregate.
UNMAPPED, IRONIC = "compute-new", "ironic-1"
NODES = [f"{IRONIC}-a", f"{IRONIC}-b"]


class Wreckage:
    """Make it once; it takes a minute or two, and as long to ``clear``."""

    def __init__(self, cloud: ControlPlane) -> None:
        self._cloud = cloud
        self.servers: dict[str, str] = {}
        # what earlier tests deleted would be archived with what is deleted here
        cloud.nova_manage("db", "archive_deleted_rows", "--all-cells", "--until-complete", "--purge")
        self._boot()
        self.nodes = {name: drift.provider(cloud, name) for name in ("compute-1", "compute-2", "compute-3")}
        self._live_on()
        self._misallocate()
        self.rack, self.metal, self.last = (self._aggregate(name) for name in ("rack", "metal", "last"))
        self._lose_placement()
        self._lose_a_host()
        cloud.add_compute(UNMAPPED, "cell2")
        cloud.wait_for_compute(UNMAPPED)
        #: the number of each provider in Placement's database
        self.numbers = drift.provider_numbers(cloud)
        self.at_rest: Photograph = photograph(cloud)
        self._bindings = {port: self._binding(port) for port in self._ports.values()}
        self._be_busy()
        self.busy: Photograph = photograph(cloud)

    def _boot(self) -> None:
        cloud, compute = self._cloud, self._cloud.admin.compute
        cloud.add_compute(IRONIC, "cell1", nodes=NODES)
        compute.create_flavor(id="huge", name="huge", ram=10**8, vcpus=10**5, disk=1)
        self._group = compute.create_server_group(name="all", policy="soft-anti-affinity")
        network = drift.create_network(cloud, "wreckage")
        self._ports = {name: str(cloud.admin.network.create_port(network_id=network).id) for name in PLUGGED}
        more: dict[str, Any] = {"metadata": {"a": "b"}, "scheduler_hints": {"group": self._group.id}}
        plugs: dict[str, Any] = {name: {"networks": [{"port": port}]} for name, port in self._ports.items()}
        booted = {
            name: cloud.boot(name, host, wait=False, **more, **plugs.get(name, {})) for name, host in SERVERS.items()
        }
        booted["buried"] = cloud.boot("buried", wait=False, flavor="huge")
        self.servers = {name: server.id for name, server in booted.items()}
        for name, server in self.servers.items():
            cloud.wait_for_server(server, "ERROR" if name == "buried" else "ACTIVE", timeout=180)
        cloud.wait_for_compute(IRONIC, NODES)
        cloud.discover_hosts()

    def _live_on(self) -> None:
        """What happens to servers every day."""
        cloud, compute, servers = self._cloud, self._cloud.admin.compute, self.servers
        compute.resize_server(servers["resized"], "small")
        compute.shelve_server(servers["shelved"])
        compute.delete_server(servers["deleted"])
        drift.soft_delete(cloud, servers["soft-deleted"])
        cloud.wait_for_server(servers["shelved"], "SHELVED_OFFLOADED")
        cloud.wait_for_server(servers["resized"], "VERIFY_RESIZE")
        cloud.delete(servers["deleted"])

    def _misallocate(self) -> None:
        """Mistakes of an operator, and of a Placement that was restored."""
        placement, servers = self._cloud.admin.placement, self.servers
        for name in ("missing", "other-cell", "soft-deleted"):
            drift.allocate(placement, servers[name], {})
        [(_, amounts)] = drift.allocation(placement, servers["twice"])["allocations"].items()
        doubled = {name: 2 * amount for name, amount in amounts["resources"].items()}
        drift.allocate(placement, servers["twice"], {self.nodes["compute-2"]: doubled})
        [(_, amounts)] = drift.allocation(placement, servers["elsewhere"])["allocations"].items()
        drift.allocate(placement, servers["elsewhere"], {self.nodes["compute-2"]: amounts["resources"]})
        drift.record_live_migration(self._cloud, servers["elsewhere"], "compute-2")
        [(_, amounts)] = drift.allocation(placement, servers["owner"])["allocations"].items()
        identity: Any = self._cloud.admin.identity
        other = identity.find_project("service").id
        drift.allocate(placement, servers["owner"], {self.nodes["compute-2"]: amounts["resources"]}, project=other)

    def _aggregate(self, name: str) -> Any:
        compute = self._cloud.admin.compute
        return compute.get_aggregate(compute.create_aggregate(name=name).id)

    def _lose_placement(self) -> None:
        """A deletion and an aggregate's new member that Placement never heard of, and a member that is none."""
        cloud = self._cloud
        drift.die_while_deleting(cloud, self.servers["leaked"], "compute-3")
        drift.add_host_in_vain(cloud, self.rack, "compute-1")
        cloud.start_service("placement")
        drift.join(cloud.admin.placement, self.nodes["compute-2"], self.rack.uuid)

    def _lose_a_host(self) -> None:
        cloud, server = self._cloud, self.servers["evacuated"]
        cloud.lose_host("compute-1")
        cloud.admin.compute.evacuate_server(server, host="compute-2")
        wait_until(lambda: cloud.admin.compute.get_server(server).compute_host == "compute-2", 90, "the evacuation")
        cloud.wait_for_server(server, "SHUTOFF")
        done = f"SELECT 1 FROM migrations WHERE instance_uuid = '{server}' AND status = 'done'"
        wait_until(lambda: cloud.mariadb.execute(done, "nova_cell1"), 60, "the end of the evacuation")

    def _be_busy(self) -> None:
        """A host dies unnoticed, and what it was asked to do waits for its return.

        Besides: Nova knows the two nodes of a host by the name of the first, and so it puts only that one into an aggregate.
        """
        cloud, compute = self._cloud, self._cloud.admin.compute
        compute.add_host_to_aggregate(self.metal, IRONIC)
        compute.add_host_to_aggregate(self.last, "compute-3")
        drift.join(cloud.admin.placement, self.nodes["compute-3"])
        cloud.kill_service("nova-compute-compute-2")
        self.servers["building"] = cloud.boot("building", wait=False, availability_zone="nova:compute-2").id
        compute.evacuate_server(self.servers["evacuating"], host="compute-2")
        held = {"building": {"compute-2"}, "evacuating": {"compute-1", "compute-2"}}
        for name, hosts in held.items():
            wait_until(partial(self._claims, name, hosts), 60, f"the claim of {name}")
        mapped = f"SELECT 1 FROM instance_mappings WHERE instance_uuid = '{self.servers['building']}' AND cell_id > 0"
        wait_until(lambda: cloud.mariadb.execute(mapped, "nova_api"), 60, "the mapping of what is being built")
        requested = f"SELECT 1 FROM build_requests WHERE instance_uuid = '{self.servers['building']}'"
        wait_until(lambda: not cloud.mariadb.execute(requested, "nova_api"), 60, "the end of the build request")
        moving = (
            f"SELECT 1 FROM migrations WHERE instance_uuid = '{self.servers['evacuating']}' AND status = 'accepted'"
        )
        wait_until(lambda: cloud.mariadb.execute(moving, "nova_cell1"), 60, "the evacuation under way")

    def _binding(self, port: str) -> dict[str, str]:
        shown = self._cloud.admin.network.get_port(port)
        return {name: str(shown[name]) for name in ("device_id", "device_owner", "binding_host_id")}

    @contextmanager
    def plugged(self) -> Iterator[None]:
        """Bind the ports in the cloud's Neutron, which copies share, as they were bound at rest; ``clear`` comes first."""
        network: Any = self._cloud.admin.network
        for port, binding in self._bindings.items():
            network.update_port(port, **binding)
        try:
            yield
        finally:
            for port in self._bindings:
                network.update_port(port, device_id="", device_owner="", binding_host_id="")

    def _claims(self, name: str, hosts: set[str]) -> bool:
        return drift.allocations(self._cloud).get(self.servers[name]) == hosts

    def _idle(self, name: str) -> bool:
        return not self._cloud.admin.compute.get_server(self.servers[name]).task_state

    def clear(self) -> None:
        """Repair the cloud and take everything away."""
        cloud, compute = self._cloud, self._cloud.admin.compute
        for host in ("compute-2", "compute-3"):
            cloud.start_service(f"nova-compute-{host}")
        for name in ("building", "evacuating"):
            wait_until(partial(self._idle, name), 180, f"the end of {name}")
        cloud.return_host("compute-1", timeout=180)
        for server in self.servers.values():
            compute.delete_server(server, ignore_missing=True)
        for server in self.servers.values():
            cloud.delete(server)
            drift.allocate(cloud.admin.placement, server, {})
        for aggregate, host in ((self.rack, "compute-1"), (self.metal, IRONIC), (self.last, "compute-3")):
            compute.remove_host_from_aggregate(aggregate.id, host)
            compute.delete_aggregate(aggregate.id)
        for node in self.nodes.values():
            drift.join(cloud.admin.placement, node)
        for host in (UNMAPPED, IRONIC):
            drift.retire(cloud, host)
        compute.delete_server_group(self._group)
        compute.delete_flavor("huge")
