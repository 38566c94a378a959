"""A fleet as SQL: the rows that Nova and Placement would have written, made where they are stored.

Everything follows from the sizes and the date, so that two loads are the same data. An instance is 21 rows, whether it
lives, was deleted 40 days ago or was archived 90 days ago, and there are as many of each. One cell has all hosts; one in
six of them is an addition. Where there is drift, of each ten instances of a host one holds nothing in Placement and
another has no mapping; a tenth of the deleted ones still hold something, all of it of five hosts; as many archived ones still
have a mapping; the added hosts are not mapped; no host is in Placement's aggregates. Each instance has one port; Neutron
has those of the live instances.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

API, CELL0, CELL, PLACEMENT = "nova_api", "nova_cell0", "nova_cell1", "placement"
CELL_UUID = "ce110001-0000-4000-8000-000000000001"
ROWS_PER_INSTANCE = 21
#: days since instances were made, deleted, and (those that are archived by now) deleted
MADE, DELETED, ARCHIVED = 50, 40, 90

_CELL0_UUID = "00000000-0000-0000-0000-000000000000"
_CELL_ID = 2
#: what uuids are of
_LIVE, _DELETED, _ARCHIVED, _NODE, _SERVICE, _AGGREGATE, _PORT, _DISK = range(1, 9)
_AGGREGATE_HOSTS = 5
#: the network of all ports
NETWORK = "4e700001-0000-4000-8000-000000000001"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the fleet is.

    :param instances: live ones; a multiple of ten times the hosts
    """

    hosts: int
    instances: int

    @property
    def drifted(self) -> int:
        """How many drifts of a kind there are among the instances."""
        return self.instances // 10

    @property
    def added_hosts(self) -> int:
        """Hosts without instances, which are not mapped where there is drift."""
        return max(1, self.hosts // 5)

    @property
    def aggregates(self) -> int:
        """How many there are."""
        return max(1, self.hosts // 5)

    @property
    def members(self) -> int:
        """How many memberships of hosts in aggregates there are."""
        return self.aggregates * min(_AGGREGATE_HOSTS, self.hosts)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that an instance has in a table.

    :param number: how many
    :param columns: SQL by column; ``s.seq`` counts instances, ``r.seq`` their rows
    :param marked: whether deleting the instance marks them as deleted
    """

    number: int
    columns: Mapping[str, str]
    marked: bool = True


@dataclass(frozen=True, slots=True)
class PluggedPort:
    """A port of a live instance, bound to the instance's host."""

    id: str
    instance: str
    host: str


#: the network cache of an instance; ``@`` stands for the port's id
_CACHE = json.dumps(
    [
        {
            "id": "@",
            "address": "fa:16:3e:00:00:01",
            "type": "ovs",
            "vnic_type": "normal",
            "network": {"id": NETWORK, "subnets": []},
        }
    ]
)
_FLAVOR = json.dumps(
    {
        "cur": {
            "nova_object.name": "Flavor",
            "nova_object.namespace": "nova",
            "nova_object.version": "1.2",
            "nova_object.data": {
                "id": 1,
                "name": "size-@",
                "memory_mb": "512*@",
                "vcpus": "1*@",
                "root_gb": "1*@",
                "ephemeral_gb": 0,
                "flavorid": "size-@",
                "swap": 0,
                "rxtx_factor": 1.0,
                "vcpu_weight": 0,
                "disabled": False,
                "is_public": True,
                "extra_specs": {},
                "description": None,
                "created_at": "2026-01-01T00:00:00Z",
                "updated_at": None,
                "deleted_at": None,
                "deleted": False,
            },
        },
        "old": None,
        "new": None,
    }
)
#: an instance's size: 1, 2 or 4, with so many vCPUs and GB of disk
_SIZE = "(1 << (s.seq % 3))"
_FLAVOR_SQL = f"REPLACE(REPLACE(REPLACE('{_FLAVOR}', '\"512*@\"', 512 * {_SIZE}), '\"1*@\"', {_SIZE}), '@', {_SIZE})"
_OWNER = {"project_id": "CONCAT('project-', s.seq % 10)", "user_id": "CONCAT('user-', s.seq % 10)"}
_METADATA = (
    "'image_base_image_ref', 'image_min_ram', 'image_min_disk', 'image_disk_format', 'owner_project_name', 'boot_roles'"
)


def ports(sizes: Sizes) -> Iterator[PluggedPort]:
    """Yield the ports of the live instances; the instances' network caches name the same ids."""
    for number in range(1, sizes.instances + 1):
        host = f"host-{1 + (number - 1) % sizes.hosts:05}"
        yield PluggedPort(_uuid_of(_PORT, number), _uuid_of(_LIVE, number), host)


def _uuid_of(kind: int, number: int) -> str:
    """Return the uuid that the SQL of :func:`_uuid` gives."""
    digest = hashlib.md5(f"{kind}:{number}".encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[12:15]}-8{digest[15:18]}-{digest[18:30]}"


def _uuid(kind: int, number: str) -> str:
    """Return SQL for a uuid as random as Nova's are: neighbours in an index lock each other out when they are written."""
    digest = f"MD5(CONCAT('{kind}:', {number}))"
    parts = [f"MID({digest}, {start}, {length})" for start, length in ((1, 8), (9, 4), (13, 3), (16, 3), (19, 12))]
    return "CONCAT({}, '-', {}, '-4', {}, '-8', {}, '-', {})".format(*parts)


def _host(number: str) -> str:
    return f"CONCAT('host-', LPAD({number}, 5, '0'))"


def _instance_rows(kind: int, base: int, hosts: int) -> dict[str, _Rows]:
    uuid, host = _uuid(kind, "s.seq"), _host(f"1 + (s.seq - 1) % {hosts}")
    port = _uuid(_PORT, f"{base} + s.seq")
    place = {"host": host, "node": host, "launched_on": host, "compute_id": f"1 + (s.seq - 1) % {hosts}"}
    size = {"vcpus": _SIZE, "memory_mb": f"512 * {_SIZE}", "root_gb": _SIZE, "ephemeral_gb": "0"}
    state = {"vm_state": "'active'", "power_state": "1", "cleaned": "1", "hidden": "0", "locked": "0"}
    names = {"display_name": "CONCAT('server-', s.seq)", "hostname": "CONCAT('server-', s.seq)"}
    image = {"image_ref": f"{_uuid(_DISK, '0')}", "instance_type_id": "1 + s.seq % 3", "launch_index": "0"}
    mine = {"instance_uuid": uuid}
    return {
        "instances": _Rows(1, {"uuid": uuid, **_OWNER, **place, **size, **state, **names, **image}),
        "instance_extra": _Rows(1, {**mine, "flavor": _FLAVOR_SQL, "pci_requests": "'[]'"}),
        "instance_info_caches": _Rows(1, {**mine, "network_info": f"REPLACE('{_CACHE}', '@', {port})"}),
        "instance_id_mappings": _Rows(1, {"uuid": uuid}),
        "instance_system_metadata": _Rows(6, {**mine, "`key`": f"ELT(r.seq, {_METADATA})", "value": "'1'"}),
        "instance_metadata": _Rows(2, {**mine, "`key`": "CONCAT('key-', r.seq)", "value": "'value'"}),
        "instance_actions": _Rows(2, {**mine, **_OWNER, "action": "ELT(r.seq, 'create', 'reboot')"}, marked=False),
        "instance_actions_events": _Rows(
            4,
            {
                "action_id": f"({base} + s.seq - 1) * 2 + 1 + (r.seq - 1) DIV 2",
                "event": "'work'",
                "result": "'Success'",
            },
            marked=False,
        ),
        "block_device_mapping": _Rows(
            1,
            {
                **mine,
                "uuid": _uuid(_DISK, f"{base} + s.seq"),
                "source_type": "'image'",
                "destination_type": "'local'",
                "boot_index": "0",
                "delete_on_termination": "1",
            },
        ),
        "virtual_interfaces": _Rows(1, {**mine, "uuid": port}),
        "instance_faults": _Rows(1, {**mine, "code": "500", "message": "'it was mended'", "host": host}),
    }


_PLACEMENT_TABLES = (
    *("resource_providers", "inventories", "resource_provider_traits", "projects", "users", "consumers", "allocations"),
    *("placement_aggregates", "resource_provider_aggregates"),
)
INSTANCE_TABLES = tuple(_instance_rows(_LIVE, 0, 1))


def statements(sizes: Sizes, drift: bool, now: datetime, url: str) -> Iterator[str]:
    """Yield what fills the empty databases, with Placement's own classes and traits in place.

    :param drift: whether anything is wrong
    :param url: of a database, with ``{}`` for its name
    """
    yield from _cell(sizes, drift, now)
    yield from _api(sizes, drift, url, f"'{now - timedelta(days=MADE)}'")
    yield from _placement(sizes, drift, f"'{now - timedelta(days=MADE)}'")


def _cell(sizes: Sizes, drift: bool, now: datetime) -> Iterator[str]:
    hosts, made = sizes.hosts + sizes.added_hosts, f"'{now - timedelta(days=MADE)}'"
    yield f"USE {CELL}"
    yield (
        "INSERT INTO services (id, uuid, host, `binary`, topic, report_count, disabled, deleted, forced_down, version, "
        f"created_at) SELECT seq, {_uuid(_SERVICE, 'seq')}, {_host('seq')}, 'nova-compute', 'compute', 1, 0, 0, 0, 70, "
        f"{made} FROM seq_1_to_{hosts}"
    )
    yield (
        "INSERT INTO compute_nodes (id, uuid, service_id, host, hypervisor_hostname, mapped, deleted, vcpus, memory_mb, "
        "local_gb, vcpus_used, memory_mb_used, local_gb_used, hypervisor_type, hypervisor_version, cpu_info, created_at) "
        f"SELECT seq, {_uuid(_NODE, 'seq')}, seq, {_host('seq')}, {_host('seq')}, "
        f"{f'seq <= {sizes.hosts}' if drift else 1}, 0, 64, 1000000, 100000, 0, 0, 0, 'fake', 1, '{{}}', {made} "
        f"FROM seq_1_to_{hosts}"
    )
    for number, (kind, days) in enumerate(((_LIVE, None), (_DELETED, DELETED), (_ARCHIVED, ARCHIVED))):
        base, prefix = number * sizes.instances, "shadow_" if kind == _ARCHIVED else ""
        gone = "NULL" if days is None else f"'{now - timedelta(days=days)}'"
        # nothing of an instance that is archived is younger than its end, its actions included
        born = gone if kind == _ARCHIVED else made
        for table, rows in _instance_rows(kind, base, sizes.hosts).items():
            row = f"({base} + s.seq - 1) * {rows.number} + r.seq"
            deleted = (gone, row) if rows.marked and days is not None else ("NULL", "0")
            yield (
                f"INSERT INTO {prefix}{table} (id, created_at, deleted_at, deleted, {', '.join(rows.columns)}) "
                f"SELECT {row}, {born}, {', '.join(deleted)}, {', '.join(rows.columns.values())} "
                f"FROM seq_1_to_{sizes.instances} s, seq_1_to_{rows.number} r"
            )
    yield f"ANALYZE TABLE {', '.join(INSTANCE_TABLES)}, compute_nodes, services"


def _api(sizes: Sizes, drift: bool, url: str, made: str) -> Iterator[str]:
    yield f"USE {API}"
    yield (
        "INSERT INTO cell_mappings (id, uuid, name, transport_url, database_connection, disabled) VALUES "
        f"(1, '{_CELL0_UUID}', 'cell0', 'none:///', '{url.format(CELL0)}', 0), "
        f"({_CELL_ID}, '{CELL_UUID}', 'cell1', 'none:///', '{url.format(CELL)}', 0)"
    )
    mapped = sizes.hosts if drift else sizes.hosts + sizes.added_hosts
    yield (
        f"INSERT INTO host_mappings (cell_id, host, created_at) SELECT {_CELL_ID}, {_host('seq')}, {made} "
        f"FROM seq_1_to_{mapped}"
    )
    kinds = [(_LIVE, sizes.instances, 0), (_DELETED, sizes.instances, 1), (_ARCHIVED, sizes.drifted * drift, 1)]
    for kind, number, queued in kinds:
        if not number:
            continue
        unmapped = drift and kind == _LIVE
        yield (
            "INSERT INTO instance_mappings (instance_uuid, cell_id, project_id, user_id, queued_for_delete, created_at) "
            f"SELECT {_uuid(kind, 's.seq')}, {_CELL_ID}, {', '.join(_OWNER.values())}, {queued}, {made} "
            f"FROM seq_1_to_{number} s" + (f" WHERE {_tenth(sizes, 's.seq')} <> 2" if unmapped else "")
        )
        yield (
            "INSERT INTO request_specs (instance_uuid, spec, created_at) "
            f"SELECT {_uuid(kind, 's.seq')}, '{{}}', {made} FROM seq_1_to_{number} s"
        )
    yield (
        "INSERT INTO aggregates (id, uuid, name, created_at) "
        f"SELECT seq, {_uuid(_AGGREGATE, 'seq')}, CONCAT('rack-', seq), {made} FROM seq_1_to_{sizes.aggregates}"
    )
    yield (
        f"INSERT INTO aggregate_hosts (aggregate_id, host, created_at) SELECT a.seq, {_host(_member(sizes))}, {made} "
        f"FROM seq_1_to_{sizes.aggregates} a, seq_1_to_{min(_AGGREGATE_HOSTS, sizes.hosts)} h"
    )
    yield "ANALYZE TABLE instance_mappings, host_mappings, request_specs"


def _placement(sizes: Sizes, drift: bool, made: str) -> Iterator[str]:
    hosts = sizes.hosts + sizes.added_hosts
    yield f"USE {PLACEMENT}"
    yield (
        "INSERT INTO resource_providers (id, uuid, name, generation, root_provider_id) "
        f"SELECT seq, {_uuid(_NODE, 'seq')}, {_host('seq')}, 1, seq FROM seq_1_to_{hosts}"
    )
    yield (
        "INSERT INTO inventories (resource_provider_id, resource_class_id, total, reserved, min_unit, max_unit, step_size, "
        "allocation_ratio) SELECT p.id, r.id, 1000000, 0, 1, 1000000, 1, 1 "
        "FROM resource_providers p, resource_classes r WHERE r.name IN ('VCPU', 'MEMORY_MB', 'DISK_GB')"
    )
    yield (
        "INSERT INTO resource_provider_traits (trait_id, resource_provider_id) "
        "SELECT t.id, p.id FROM traits t, resource_providers p WHERE t.name = 'COMPUTE_NODE'"
    )
    for table, prefix in (("projects", "project-"), ("users", "user-")):
        yield f"INSERT INTO {table} (id, external_id) SELECT seq, CONCAT('{prefix}', seq % 10) FROM seq_1_to_10"
    yield from _allocations(
        _LIVE, sizes.instances, f"1 + (s.seq - 1) % {sizes.hosts}", f"{_tenth(sizes, 's.seq')} <> 1" if drift else "1"
    )
    if drift:
        yield from _allocations(_DELETED, sizes.drifted, f"1 + s.seq % {min(5, sizes.hosts)}", "1")
    else:
        yield (
            "INSERT INTO placement_aggregates (id, uuid) "
            f"SELECT seq, {_uuid(_AGGREGATE, 'seq')} FROM seq_1_to_{sizes.aggregates}"
        )
        yield (
            f"INSERT INTO resource_provider_aggregates (aggregate_id, resource_provider_id) SELECT a.seq, {_member(sizes)} "
            f"FROM seq_1_to_{sizes.aggregates} a, seq_1_to_{min(_AGGREGATE_HOSTS, sizes.hosts)} h"
        )
    for table in _PLACEMENT_TABLES:
        yield f"UPDATE {table} SET created_at = {made}"
    yield f"ANALYZE TABLE {', '.join(_PLACEMENT_TABLES)}"


def _allocations(kind: int, number: int, provider: str, where: str) -> Iterator[str]:
    uuid, owner = _uuid(kind, "s.seq"), "IF(s.seq % 10, s.seq % 10, 10)"
    yield (
        f"INSERT INTO consumers (uuid, project_id, user_id, generation) SELECT {uuid}, {owner}, {owner}, 1 "
        f"FROM seq_1_to_{number} s WHERE {where}"
    )
    yield (
        f"INSERT INTO allocations (resource_provider_id, consumer_id, resource_class_id, used) SELECT {provider}, {uuid}, "
        f"r.id, IF(r.name = 'MEMORY_MB', 512, 1) * {_SIZE} FROM seq_1_to_{number} s, resource_classes r "
        f"WHERE r.name IN ('VCPU', 'MEMORY_MB', 'DISK_GB') AND {where}"
    )


def _tenth(sizes: Sizes, number: str) -> str:
    """Which of a host's ten an instance is, from 0."""
    return f"(({number} - 1) DIV {sizes.hosts}) % 10"


def _member(sizes: Sizes) -> str:
    """Return the number of the host that is this (``h.seq``) member of this (``a.seq``) aggregate."""
    return f"1 + ((a.seq - 1) * {_AGGREGATE_HOSTS} + h.seq - 1) % {sizes.hosts}"
