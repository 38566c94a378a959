"""Ways to look at a real cloud's databases, and to make in it what drifts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from openstack import exceptions

from tests.cloud.control_plane import CELLS, COMPUTES, ControlPlane, wait_until


def mapped_hosts(cloud: ControlPlane) -> dict[str, str]:
    """Return each mapped host's cell."""
    rows = cloud.mariadb.execute(
        "SELECT h.host, c.name FROM host_mappings h JOIN cell_mappings c ON c.id = h.cell_id", "nova_api"
    )
    return dict(line.split("\t") for line in rows.splitlines())


def compute_nodes(cloud: ControlPlane, host: str) -> int:
    """Count the live compute nodes of a host."""
    counts = [
        cloud.mariadb.execute(
            f"SELECT COUNT(*) FROM compute_nodes WHERE deleted = 0 AND host = '{host}'", f"nova_{cell}"
        )
        for cell in CELLS
    ]
    return sum(int(count) for count in counts)


def members(cloud: ControlPlane, aggregate: str) -> set[str]:
    """Return the names of the providers that Placement has in an aggregate."""
    rows = cloud.mariadb.execute(
        "SELECT p.name FROM resource_provider_aggregates m"
        " JOIN placement_aggregates a ON a.id = m.aggregate_id"
        f" JOIN resource_providers p ON p.id = m.resource_provider_id WHERE a.uuid = '{aggregate}'",
        "placement",
    )
    return set(rows.split())


def allocations(cloud: ControlPlane) -> dict[str, set[str]]:
    """Return, by consumer, the names of the providers it holds something of."""
    rows = cloud.mariadb.execute(
        "SELECT DISTINCT a.consumer_id, p.name FROM allocations a"
        " JOIN resource_providers p ON p.id = a.resource_provider_id",
        "placement",
    )
    held: dict[str, set[str]] = {}
    for line in rows.splitlines():
        consumer, provider = line.split("\t")
        held.setdefault(consumer, set()).add(provider)
    return held


#: what drifts, by database
_TABLES = {
    "nova_api": "host_mappings instance_mappings build_requests request_specs aggregates aggregate_hosts",
    "placement": "allocations consumers inventories resource_providers resource_provider_aggregates",
    "nova_cell0": "instances migrations",
    "nova_cell1": "instances migrations compute_nodes",
    "nova_cell2": "instances migrations compute_nodes",
}
#: what a row that was deleted and made again has anew
_ANEW = ("id", "created_at", "updated_at", "generation")


def dump(cloud: ControlPlane) -> str:
    """Return all rows of Nova's and Placement's databases, but for what every heartbeat changes."""
    parts = []
    for database, names in _TABLES.items():
        for table in names.split():
            parts += [f"-- {database}.{table}", cloud.mariadb.execute(f"SELECT * FROM {table} ORDER BY 1, 2", database)]
    return "\n".join(parts)


def records(cloud: ControlPlane) -> set[str]:
    """Return the rows of :func:`dump` as JSON, without numbers, times and generations, which a row that returns has anew."""
    found = set()
    for database, names in _TABLES.items():
        for table in names.split():
            columns = cloud.mariadb.execute(
                "SELECT column_name FROM information_schema.columns"
                f" WHERE table_schema = '{database}' AND table_name = '{table}' ORDER BY ordinal_position"
            ).split()
            named = ", ".join(f"'{column}', `{column}`" for column in columns if column not in _ANEW)
            rows = cloud.mariadb.execute(f"SELECT JSON_OBJECT({named}) FROM {table}", database)
            found |= {f"{database}.{table} {row}" for row in rows.splitlines()}
    return found


def at_rest(cloud: ControlPlane) -> set[str]:
    """Return the rows of :func:`dump` when Nova, which writes on after it calls something done, has left them alone."""
    seen = [dump(cloud)]

    def unchanged() -> bool:
        time.sleep(3)
        seen.append(dump(cloud))
        return seen[-1] == seen[-2]

    wait_until(unchanged, 120, "a cloud at rest")
    return set(seen[-1].splitlines())


def undeclared_work(cloud: ControlPlane, vhosts: tuple[str, ...] = ("api", *CELLS)) -> int:
    """Count the messages that wait, or are delivered and not acknowledged, in our topic's queues."""
    return sum(count for _vhost, _queue, count in _queues(cloud, vhosts))


def forget_notifications(cloud: ControlPlane, vhosts: tuple[str, ...] = ("api", *CELLS)) -> None:
    """Let nobody hear any more what has been told until now."""
    for vhost, queue, _count in _queues(cloud, vhosts):
        cloud.rabbitmq.ctl("purge_queue", "-q", "-p", vhost, queue)


def _queues(cloud: ControlPlane, vhosts: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    for vhost in vhosts:
        for line in cloud.rabbitmq.ctl("list_queues", "-q", "-p", vhost, "name", "messages").splitlines():
            name, _, count = line.partition("\t")
            if name.startswith("stackmend."):
                yield vhost, name, int(count)


def die_while_deleting(cloud: ControlPlane, server_id: str, host: str) -> None:
    """Delete a server so that its allocation stays, and leave Placement and the host's nova-compute down.

    Nova destroys the row of an instance only after Placement let go of its allocation, but for one case: a nova-compute
    that died in between deletes the row first when it starts again (``_complete_partial_deletion``), and then asks a
    Placement that still fails. So: Placement hangs, the server is deleted, its host dies; Placement comes back without
    its allocations and answers 500, the host returns, and both go down, the host before it has looked around: at the end of
    its start it would clean up by itself, were Placement there.
    """
    database = f"nova_{COMPUTES[host]}"
    row = f"SELECT {{}} FROM instances WHERE uuid = '{server_id}'"
    cloud.pause_service("placement")
    cloud.admin.compute.delete_server(server_id)
    state = row.format("vm_state")
    wait_until(lambda: cloud.mariadb.execute(state, database).strip() == "deleted", 60, "the middle of the deletion")
    cloud.kill_service(f"nova-compute-{host}")
    cloud.kill_service("placement")
    cloud.mariadb.execute("RENAME TABLE allocations TO allocations_away", "placement")
    try:
        cloud.start_service("placement")
        cloud.start_service(f"nova-compute-{host}")
        gone = row.format("deleted <> 0")
        wait_until(lambda: cloud.mariadb.execute(gone, database).strip() == "1", 90, "the end of the deletion")
    finally:
        cloud.kill_service(f"nova-compute-{host}")
        cloud.stop_service("placement")
        cloud.mariadb.execute("RENAME TABLE allocations_away TO allocations", "placement")
    assert server_id in allocations(cloud), "the leak that this is about did not happen"


def retire(cloud: ControlPlane, host: str) -> None:
    """Kill a compute service for good and delete it, as far as Nova lets it be deleted."""
    cloud.remove_compute(host)
    for service in cloud.admin.compute.services(host=host):
        with suppress(exceptions.SDKException):
            cloud.admin.compute.delete_service(service)


def provider(cloud: ControlPlane, name: str) -> str:
    """Return the uuid of a resource provider."""
    return cloud.mariadb.execute(f"SELECT uuid FROM resource_providers WHERE name = '{name}'", "placement").strip()


def provider_numbers(cloud: ControlPlane) -> dict[str, str]:
    """Return the number that Placement's database gives each provider, by name."""
    rows = cloud.mariadb.execute("SELECT name, id FROM resource_providers", "placement")
    return dict(line.split("\t") for line in rows.splitlines())


def allocation(placement: Any, consumer: str) -> dict[str, Any]:
    """Return Placement's own words on what a consumer holds.

    :param placement: openstacksdk's proxy
    """
    answer: dict[str, Any] = placement.get(f"/allocations/{consumer}", microversion="1.28").json()
    return answer


def allocate(placement: Any, consumer: str, providers: Mapping[str, Mapping[str, int]], project: str = "") -> None:
    """Let a consumer hold exactly this, as somebody who types it in; nothing is released when it holds nothing.

    :param project: for whom; as before when it is empty
    """
    now = allocation(placement, consumer)
    if not now["allocations"] and not providers:
        return
    allocations = {uuid: {"resources": dict(resources)} for uuid, resources in providers.items()}
    body = {
        "allocations": allocations,
        "project_id": project or now["project_id"],
        "user_id": now.get("user_id", project),
        "consumer_generation": now.get("consumer_generation"),
    }
    answer = placement.put(f"/allocations/{consumer}", json=body, microversion="1.28")
    assert answer.status_code == 204, answer.text


def join(placement: Any, provider_uuid: str, *aggregates: str) -> None:
    """Put a provider into exactly these aggregates of Placement, and not in Nova's."""
    url = f"/resource_providers/{provider_uuid}/aggregates"
    generation = placement.get(url, microversion="1.19").json()["resource_provider_generation"]
    body = {"aggregates": aggregates, "resource_provider_generation": generation}
    answer = placement.put(url, json=body, microversion="1.19")
    assert answer.status_code == 200, answer.text


def add_host_in_vain(cloud: ControlPlane, aggregate: Any, host: str) -> None:
    """Add a host to an aggregate while Placement is down: Nova writes its own database first, then fails."""
    with suppress(exceptions.HttpException):
        cloud.admin.compute.add_host_to_aggregate(aggregate.id, host)
    assert cloud.admin.compute.get_aggregate(aggregate.id).hosts == [host]
    assert host not in members(cloud, aggregate.uuid)


def create_network(cloud: ControlPlane, name: str) -> str:
    """Make a network to whose ports compute hosts can be bound; return its id."""
    network = cloud.admin.network
    made = network.create_network(name=name, provider_network_type="vlan", provider_physical_network="physnet1")
    network.create_subnet(network_id=made.id, ip_version=4, cidr="10.77.0.0/24")
    return str(made.id)


def soft_delete(cloud: ControlPlane, server_id: str) -> None:
    """Delete a server at an API that keeps what is deleted for a while, as the other one does not."""
    address = cloud.add_api("nova", "nova-api-soft", {"DEFAULT": {"reclaim_instance_interval": 10**6}})
    cloud.start_service("nova-api-soft")
    try:
        cloud.connection(compute_endpoint_override=f"{address}/v2.1").compute.delete_server(server_id)
        cloud.wait_for_server(server_id, "SOFT_DELETED")
    finally:
        cloud.remove_api("nova-api-soft")


def acquaint(cloud: ControlPlane) -> None:
    """Let nova-api ask Placement something.

    One that never did does not know where Placement is; then it cannot do without it what else it only logs.
    """
    compute = cloud.admin.compute
    aggregate = compute.create_aggregate(name="acquaintances")
    for change in (compute.add_host_to_aggregate, compute.remove_host_from_aggregate):
        change(aggregate.id, "compute-1")
    compute.delete_aggregate(aggregate.id)


def add_provider(cloud: ControlPlane, name: str, uuid: str) -> None:
    """Create a resource provider, which has nothing yet."""
    answer = cloud.admin.placement.post("/resource_providers", json={"name": name, "uuid": uuid})
    assert answer.status_code in (200, 201), answer.text


def record_live_migration(cloud: ControlPlane, server: str, source: str) -> None:
    """Let a server have come to its host by a live migration from another one, which completed."""
    columns = "created_at, updated_at, deleted, uuid, instance_uuid, status, migration_type, hidden, cross_cell_move, "
    columns += "source_compute, source_node, dest_compute, dest_node"
    values = "i.created_at, i.created_at, 0, UUID(), i.uuid, 'completed', 'live-migration', 0, 0, "
    values += "n.host, n.hypervisor_hostname, i.host, i.node"
    cloud.mariadb.execute(
        f"INSERT INTO migrations ({columns}) SELECT {values} FROM instances i JOIN compute_nodes n "
        f"ON n.host = '{source}' AND n.deleted = 0 WHERE i.uuid = '{server}'",
        "nova_cell1",
    )
