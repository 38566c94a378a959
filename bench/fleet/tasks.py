"""What is compared with what: a task of stackmend, the command of nova-manage, and the question that tells what is left.

Each question counts what is wrong in the databases, so that 0 means that all is right. It asks neither program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.fleet import rows
from bench.fleet.rows import API, CELL, INSTANCE_TABLES, PLACEMENT, ROWS_PER_INSTANCE, Sizes

#: days after which rows are archived, and after which they are purged
ARCHIVE_AFTER, PURGE_AFTER = 30, 60

#: stackmend's options: everything heals at once, nothing waits for a person
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "audit": {
        "audit_allocations_mode": "heal",
        "purge_mode": "heal",
        "archive_deleted_rows_after_days": ARCHIVE_AFTER,
        "archive_deleted_rows_rows_per_cycle": 100_000_000,
        "purge_after_days": PURGE_AFTER,
        "purge_rows_per_cycle": 100_000_000,
    },
    "engine": {"heals_per_hour": 0, "breaker_percent": 100},
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command of nova-manage.

    :param code: how it ends when it did its work
    """

    words: tuple[str, ...]
    code: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One comparison.

    :param name: stackmend's
    :param objects: how many the task is about: looked at where nothing is wrong, otherwise put right
    :param wrong: SQL that counts what is wrong
    :param command: of nova-manage; None where it has none
    """

    name: str
    objects: int
    wrong: str
    command: Command | None


def healthy(sizes: Sizes) -> Sequence[Task]:
    """Return what is asked of a fleet in which nothing is wrong."""
    placement, cells = ("placement",), ("cell_v2",)
    return (
        Task(
            "heal_allocations",
            sizes.instances,
            _allocations(sizes),
            Command((*placement, "heal_allocations", "--skip-port-allocations"), 4),
        ),
        Task("audit_allocations", sizes.instances, _ORPHANS, Command((*placement, "audit"))),
        Task("sync_aggregates", sizes.members, _members(sizes), Command((*placement, "sync_aggregates"))),
        Task(
            "map_instances",
            2 * sizes.instances,
            _UNMAPPED,
            Command((*cells, "map_instances", "--cell_uuid", rows.CELL_UUID)),
        ),
        Task("discover_hosts", sizes.hosts + sizes.added_hosts, _HOSTS, Command((*cells, "discover_hosts"))),
        Task("heal_instance_mappings", 2 * sizes.instances, _NOWHERE, None),
    )


def drifted(sizes: Sizes, now: datetime) -> Sequence[Task]:
    """Return what is asked of a fleet in which things are wrong, in an order in which none is in the way of another."""
    same = {task.name: task for task in healthy(sizes)}

    def changed(name: str, objects: int, command: Command | None = None) -> Task:
        task = same[name]
        return Task(name, objects, task.wrong, command or task.command)

    every = ("--all-cells",)
    archive = ("archive_deleted_rows", "--until-complete", "--max_rows", "1000", "--before", _day(now, ARCHIVE_AFTER))
    return (
        changed("discover_hosts", sizes.added_hosts),
        changed("map_instances", sizes.drifted),
        changed("sync_aggregates", sizes.members),
        changed(
            "heal_allocations",
            sizes.drifted,
            Command(("placement", "heal_allocations", "--skip-port-allocations"), 0),
        ),
        changed("audit_allocations", sizes.drifted, Command(("placement", "audit", "--delete"), 4)),
        changed("heal_instance_mappings", sizes.drifted),
        Task("archive_deleted_rows", sizes.instances, _unarchived(sizes), Command(("db", *archive, *every), 1)),
        Task(
            "purge",
            sizes.instances * ROWS_PER_INSTANCE,
            _unpurged(sizes),
            Command(("db", "purge", "--before", _day(now, PURGE_AFTER), *every)),
        ),
    )


def _day(now: datetime, days: int) -> str:
    return f"{now - timedelta(days=days):%Y-%m-%d}"


def _allocations(sizes: Sizes) -> str:
    """Live instances that do not hold just what their flavor says, of their node, for their owner."""
    right = f"""
        SELECT i.uuid FROM {CELL}.instances i
        JOIN {CELL}.compute_nodes n ON n.host = i.host AND n.hypervisor_hostname = i.node
        JOIN {PLACEMENT}.resource_providers p ON p.uuid = n.uuid
        JOIN {PLACEMENT}.allocations a ON a.consumer_id = i.uuid
        JOIN {PLACEMENT}.resource_classes r ON r.id = a.resource_class_id
        JOIN {PLACEMENT}.consumers c ON c.uuid = i.uuid
        JOIN {PLACEMENT}.projects o ON o.id = c.project_id AND o.external_id = i.project_id
        JOIN {PLACEMENT}.users u ON u.id = c.user_id AND u.external_id = i.user_id
        WHERE i.deleted = 0 GROUP BY i.uuid HAVING COUNT(*) = 3 AND SUM(a.resource_provider_id = p.id AND
        a.used = CASE r.name WHEN 'VCPU' THEN i.vcpus WHEN 'MEMORY_MB' THEN i.memory_mb WHEN 'DISK_GB' THEN i.root_gb END
        ) = 3"""
    return f"SELECT {sizes.instances} - COUNT(*) FROM ({right}) held"


def _members(sizes: Sizes) -> str:
    """Memberships in Nova's aggregates that Placement lacks."""
    return f"""
        SELECT {sizes.members} - COUNT(*) FROM {API}.aggregates a JOIN {API}.aggregate_hosts h ON h.aggregate_id = a.id
        JOIN {CELL}.compute_nodes n ON n.host = h.host JOIN {PLACEMENT}.resource_providers p ON p.uuid = n.uuid
        JOIN {PLACEMENT}.placement_aggregates g ON g.uuid = a.uuid
        JOIN {PLACEMENT}.resource_provider_aggregates m ON m.aggregate_id = g.id AND m.resource_provider_id = p.id"""


def _unarchived(sizes: Sizes) -> str:
    """Rows that are not where they should be: those of deleted instances among the live, or lost, or known to nova_api."""
    missing = f"ABS(({_count('')}) - {sizes.instances * ROWS_PER_INSTANCE})"
    archived = f"ABS(({_count('shadow_')}) - {2 * sizes.instances * ROWS_PER_INSTANCE})"
    # older archived instances have mappings on purpose: they are the drift of heal_instance_mappings
    young = f"i.deleted_at > UTC_TIMESTAMP() - INTERVAL {PURGE_AFTER} DAY"
    shadows = f"JOIN {CELL}.shadow_instances i ON i.uuid = m.instance_uuid AND {young}"
    known = f"SELECT COUNT(*) FROM {API}.{{}} m {shadows}"
    known = " + ".join(f"({known.format(table)})" for table in ("instance_mappings", "request_specs"))
    return f"SELECT {missing} + {archived} + {known}"


def _unpurged(sizes: Sizes) -> str:
    """How many rows too many, or too few, are in the shadow tables."""
    return f"SELECT ABS(({_count('shadow_')}) - {sizes.instances * ROWS_PER_INSTANCE})"


def _count(prefix: str) -> str:
    return " + ".join(f"(SELECT COUNT(*) FROM {CELL}.{prefix}{table})" for table in INSTANCE_TABLES)


#: consumers that hold something and are no live instance
_ORPHANS = f"""
    SELECT COUNT(DISTINCT a.consumer_id) FROM {PLACEMENT}.allocations a
    LEFT JOIN {CELL}.instances i ON i.uuid = a.consumer_id AND i.deleted = 0 WHERE i.id IS NULL"""
#: live instances without a mapping to their cell, for their owner
_UNMAPPED = f"""
    SELECT COUNT(*) FROM {CELL}.instances i JOIN {API}.cell_mappings c ON c.uuid = '{rows.CELL_UUID}'
    LEFT JOIN {API}.instance_mappings m ON m.instance_uuid = i.uuid AND m.cell_id = c.id AND m.project_id = i.project_id
    AND m.user_id = i.user_id AND m.queued_for_delete = 0 WHERE i.deleted = 0 AND m.id IS NULL"""
#: mappings of instances that are nowhere
_NOWHERE = f"""
    SELECT COUNT(*) FROM {API}.instance_mappings m LEFT JOIN {CELL}.instances i ON i.uuid = m.instance_uuid
    WHERE i.id IS NULL"""
#: hosts without a mapping to their cell, or not marked as mapped
_HOSTS = f"""
    SELECT COUNT(*) FROM {CELL}.compute_nodes n JOIN {API}.cell_mappings c ON c.uuid = '{rows.CELL_UUID}'
    LEFT JOIN {API}.host_mappings h ON h.host = n.host AND h.cell_id = c.id WHERE h.id IS NULL OR n.mapped <> 1"""
