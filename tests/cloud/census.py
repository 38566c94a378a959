"""What is wrong in a cloud, read from its databases in plain SQL: nothing here knows how stackmend reads them.

Each rule is a query whose rows are sentences. A rule that compares two sides reads both and takes the differences.
"""

from __future__ import annotations

from tests.cloud.control_plane import CELLS, ControlPlane

#: Every database that holds instances, with its cell's name.
_DATABASES = {cell: f"nova_{cell}" for cell in ("cell0", *CELLS)}


def disorders(cloud: ControlPlane) -> set[str]:
    """Return everything that is wrong, one sentence each; nothing may be under way in the cloud."""
    found: set[str] = set()
    for query in (_MAPPED_WRONG, _TWICE, _LEADS_NOWHERE, _NOT_QUEUED, _NO_REQUEST_SPEC):
        found |= _lines(cloud, query)
    for cell in CELLS:
        found |= {f"{cell}: {line}" for line in _archived_wrong(cloud, cell)}
        found |= {f"{cell}: {line}" for query in _BROKEN for line in _lines(cloud, query, f"nova_{cell}")}
    sides = {
        "allocation": (_lines(cloud, _ENTITLED), _lines(cloud, _ALLOCATED)),
        "host mapping": (_lines(cloud, _COMPUTES), _lines(cloud, _HOST_MAPPINGS)),
        "aggregate membership": (_lines(cloud, _AGGREGATES), _lines(cloud, _MEMBERSHIPS)),
        "provider": (_lines(cloud, _NODES), _lines(cloud, _PROVIDERS)),
        "port": (_lines(cloud, _PLUGGED), _lines(cloud, _PORTS)),
    }
    for what, (right, real) in sides.items():
        found |= {f"{what} missing: {line}" for line in right - real}
        found |= {f"{what} too many: {line}" for line in real - right}
    return found


def live(cloud: ControlPlane) -> dict[str, str]:
    """Return the cell of each instance that is not deleted."""
    return dict(line.split("\t") for line in _lines(cloud, f"SELECT uuid, cell FROM ({_LIVE}) l"))


def copies(cloud: ControlPlane, server_id: str) -> list[str]:
    """Return where there is a row of an instance: ``cell1.instances``, ``cell1.shadow_instances``."""
    return [
        f"{cell}.{table}"
        for cell, database in _DATABASES.items()
        for table in ("instances", "shadow_instances")
        for _row in _lines(cloud, f"SELECT id FROM {table} WHERE uuid = '{server_id}'", database)
    ]


def shadow_rows(cloud: ControlPlane, cell: str, server_id: str) -> dict[str, int]:
    """Count the archived rows of an instance, by table."""
    tables = [table for table in _tables(cloud, cell, "instance_uuid") if table.startswith("shadow_")]
    counts = {table: f"SELECT COUNT(*) FROM {table} WHERE instance_uuid = '{server_id}'" for table in tables}
    counts["shadow_instances"] = f"SELECT COUNT(*) FROM shadow_instances WHERE uuid = '{server_id}'"
    query = " UNION ALL ".join(f"SELECT '{table}', ({count})" for table, count in counts.items())
    rows = (line.split("\t") for line in _lines(cloud, query, f"nova_{cell}"))
    return {table: int(number) for table, number in rows if int(number)}


def undated(cloud: ControlPlane, cell: str, server_id: str) -> set[str]:
    """Return, as :func:`disorders` calls them, the archived rows of an instance that no purging by date finds.

    Nova leaves some rows of a deleted instance undeleted, so that they have no date of deletion.
    """
    names = [table for table in _tables(cloud, cell, "instance_uuid") if table.startswith("shadow_")]
    dated = set(_tables(cloud, cell, "deleted_at"))
    query = " UNION ALL ".join(
        f"SELECT CONCAT('{cell}: {name} ', id, ' is archived without instance ', instance_uuid) FROM {name}"
        f" WHERE instance_uuid = '{server_id}' AND deleted_at IS NULL"
        for name in names
        if name in dated
    )
    return _lines(cloud, query, f"nova_{cell}")


def fingerprint(cloud: ControlPlane, cell: str) -> dict[str, str]:
    """Return a digest of everything that a cell has, in its database, in nova_api and in Placement.

    Services and compute nodes are left out: their heartbeats change them all the time.
    """
    database = f"nova_{cell}"
    tables = [table for table in _tables(cloud, cell) if table not in ("services", "compute_nodes")]
    query = "CHECKSUM TABLE " + ", ".join(f"{database}.{table}" for table in tables)
    digest = dict(line.split("\t") for line in _lines(cloud, query))
    mapped = f"SELECT m.* FROM nova_api.{{}} m JOIN nova_api.cell_mappings c ON c.id = m.cell_id AND c.name = '{cell}'"
    of = f"a.consumer_id IN (SELECT uuid FROM {database}.instances UNION SELECT uuid FROM {database}.migrations)"
    nodes = f"{database}.compute_nodes"
    for name, query in {
        "instance mappings": mapped.format("instance_mappings"),
        "host mappings": mapped.format("host_mappings"),
        "allocations": f"SELECT a.* FROM placement.allocations a WHERE {of}",
        "providers": f"SELECT uuid, name FROM placement.resource_providers WHERE uuid IN (SELECT uuid FROM {nodes})",
        "ports": f"SELECT id, device_id FROM neutron.ports WHERE device_id IN (SELECT uuid FROM {database}.instances)",
    }.items():
        digest[name] = "\n".join(sorted(_lines(cloud, query)))
    return digest


def _lines(cloud: ControlPlane, query: str, database: str = "") -> set[str]:
    return set(cloud.mariadb.execute(query, database).splitlines())


def _tables(cloud: ControlPlane, cell: str, column: str = "") -> list[str]:
    if column:
        where = f"columns WHERE table_schema = 'nova_{cell}' AND column_name = '{column}'"
    else:
        where = f"tables WHERE table_schema = 'nova_{cell}'"
    return sorted(_lines(cloud, f"SELECT table_name FROM information_schema.{where}"))


def _archived_wrong(cloud: ControlPlane, cell: str) -> set[str]:
    """Rows that are in both halves, or in another half than the instance that they belong to."""
    names = set(_tables(cloud, cell))
    both = [name for name in names if f"shadow_{name}" in names]
    queries = [
        f"SELECT CONCAT('{name} ', s.id, ' is live and archived') FROM shadow_{name} s JOIN {name} l ON l.id = s.id"
        for name in both
        if name in set(_tables(cloud, cell, "id"))
    ]
    of_instances = set(_tables(cloud, cell, "instance_uuid"))
    for name in (name for name in both if name in of_instances):
        queries.append(
            f"SELECT CONCAT('{name} ', t.id, ' has lost instance ', t.instance_uuid) FROM {name} t"
            " LEFT JOIN instances i ON i.uuid = t.instance_uuid WHERE t.instance_uuid IS NOT NULL AND i.id IS NULL"
        )
        # Nova itself archives what it has deleted of an instance that lives on: an old flavor's metadata, a migration.
        queries.append(
            f"SELECT CONCAT('shadow_{name} ', t.id, ' is archived without instance ', t.instance_uuid)"
            f" FROM shadow_{name} t LEFT JOIN shadow_instances i ON i.uuid = t.instance_uuid"
            " LEFT JOIN instances l ON l.uuid = t.instance_uuid"
            " WHERE t.instance_uuid IS NOT NULL AND i.id IS NULL AND (t.deleted = 0 OR l.id IS NULL)"
        )
    for half in ("", "shadow_"):
        queries.append(
            f"SELECT CONCAT('{half}instance_actions_events ', e.id, ' has lost its action')"
            f" FROM {half}instance_actions_events e LEFT JOIN {half}instance_actions a ON a.id = e.action_id"
            " WHERE a.id IS NULL"
        )
    queries.append(
        "SELECT CONCAT('instance ', l.uuid, ' lives and is archived') FROM instances l"
        " JOIN shadow_instances s ON s.uuid = l.uuid"
    )
    return _lines(cloud, " UNION ALL ".join(queries), f"nova_{cell}")


_ALL = " UNION ALL ".join(
    f"SELECT '{cell}' AS cell, id, uuid, deleted, hidden, host, node, vm_state FROM {database}.instances"
    for cell, database in _DATABASES.items()
)
_LIVE = f"SELECT * FROM ({_ALL}) every WHERE deleted = 0 AND hidden = 0"

_MAPPED_WRONG = f"""
SELECT CONCAT('instance ', l.uuid, ' lives in ', l.cell, ', mapped to ', COALESCE(c.name, 'nothing'), ', queued ',
    COALESCE(m.queued_for_delete, 'NULL'))
FROM ({_LIVE}) l LEFT JOIN nova_api.instance_mappings m ON m.instance_uuid = l.uuid
LEFT JOIN nova_api.cell_mappings c ON c.id = m.cell_id
WHERE c.name IS NULL OR c.name <> l.cell OR m.queued_for_delete <> 0
"""
_TWICE = f"""
SELECT CONCAT('instance ', uuid, ' is in ', COUNT(*), ' cells') FROM ({_ALL}) every GROUP BY uuid HAVING COUNT(*) > 1
UNION ALL
SELECT CONCAT('instance ', instance_uuid, ' has ', COUNT(*), ' mappings') FROM nova_api.instance_mappings
GROUP BY instance_uuid HAVING COUNT(*) > 1
"""
_LEADS_NOWHERE = f"""
SELECT CONCAT('the mapping of ', m.instance_uuid, ' leads nowhere') FROM nova_api.instance_mappings m
LEFT JOIN ({_ALL}) every ON every.uuid = m.instance_uuid
LEFT JOIN nova_api.build_requests b ON b.instance_uuid = m.instance_uuid
WHERE every.uuid IS NULL AND b.id IS NULL
"""
_NOT_QUEUED = f"""
SELECT CONCAT('instance ', d.uuid, ' is deleted, its mapping does not say so') FROM ({_ALL}) d
JOIN nova_api.instance_mappings m ON m.instance_uuid = d.uuid
WHERE d.deleted <> 0 AND m.queued_for_delete = 0
"""
_NO_REQUEST_SPEC = f"""
SELECT CONCAT('instance ', l.uuid, ' has no request specification') FROM ({_LIVE}) l
LEFT JOIN nova_api.request_specs s ON s.instance_uuid = l.uuid WHERE s.id IS NULL
"""

#: What each live instance of a cell must have.
_BROKEN = [
    f"""
SELECT CONCAT('instance ', i.uuid, ' has no row in {table}') FROM instances i
LEFT JOIN {table} t ON t.instance_uuid = i.uuid AND t.deleted = 0 WHERE i.deleted = 0 AND t.id IS NULL
"""
    for table in ("instance_extra", "instance_info_caches", "instance_system_metadata", "block_device_mapping")
]

_DATA = '$.cur."nova_object.data"'
_ENTITLED = " UNION ALL ".join(
    f"""
SELECT i.uuid, n.uuid, '{name}', CAST({amount} AS INT) FROM nova_{cell}.instances i
JOIN nova_{cell}.instance_extra e ON e.instance_uuid = i.uuid
JOIN nova_{cell}.compute_nodes n ON n.host = i.host AND n.hypervisor_hostname = i.node AND n.deleted = 0
WHERE i.deleted = 0 AND i.vm_state <> 'shelved_offloaded'
"""
    for cell in CELLS
    for name, amount in {
        "VCPU": f"JSON_VALUE(e.flavor, '{_DATA}.vcpus')",
        "MEMORY_MB": f"JSON_VALUE(e.flavor, '{_DATA}.memory_mb')",
        "DISK_GB": f"JSON_VALUE(e.flavor, '{_DATA}.root_gb')",
    }.items()
)
_ALLOCATED = """
SELECT a.consumer_id, p.uuid, r.name, a.used FROM placement.allocations a
JOIN placement.resource_providers p ON p.id = a.resource_provider_id
JOIN placement.resource_classes r ON r.id = a.resource_class_id
"""

_COMPUTES = " UNION ALL ".join(
    f"SELECT host, '{cell}' FROM nova_{cell}.services WHERE `binary` = 'nova-compute' AND deleted = 0" for cell in CELLS
)
_HOST_MAPPINGS = "SELECT h.host, c.name FROM nova_api.host_mappings h JOIN nova_api.cell_mappings c ON c.id = h.cell_id"

_NODES = " UNION ALL ".join(
    f"SELECT uuid, hypervisor_hostname FROM nova_{cell}.compute_nodes WHERE deleted = 0" for cell in CELLS
)
_PROVIDERS = "SELECT uuid, name FROM placement.resource_providers"

_PLUGGED = " UNION ALL ".join(
    f"""
SELECT i.uuid, n.id FROM nova_{cell}.instances i
JOIN nova_{cell}.instance_info_caches c ON c.instance_uuid = i.uuid AND c.deleted = 0
JOIN JSON_TABLE(c.network_info, '$[*]' COLUMNS (id CHAR(36) PATH '$.id')) n WHERE i.deleted = 0
"""
    for cell in CELLS
)
_PORTS = "SELECT device_id, id FROM neutron.ports WHERE device_owner LIKE 'compute:%' AND device_id <> ''"

_AGGREGATES = " UNION ALL ".join(
    f"""
SELECT a.uuid, n.uuid FROM nova_api.aggregates a JOIN nova_api.aggregate_hosts h ON h.aggregate_id = a.id
JOIN nova_{cell}.compute_nodes n ON n.host = h.host AND n.deleted = 0
"""
    for cell in CELLS
)
_MEMBERSHIPS = """
SELECT a.uuid, p.uuid FROM placement.resource_provider_aggregates m
JOIN placement.placement_aggregates a ON a.id = m.aggregate_id
JOIN placement.resource_providers p ON p.id = m.resource_provider_id
"""
