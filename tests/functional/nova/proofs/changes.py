"""Changes that several states share."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.records import Node
from tests.functional.nova.proofs.drift import Act
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import archive, long_ago, purge

#: the age of everything that has settled
LONG = {"hours": 3}


def set_up(stage: Stage) -> None:
    """Make hosts a, b and d of cell1 and c of cell2, a day old, and an instance of each cell that stays as it is."""
    stage.begin("four hosts", _four_hosts)


def _four_hosts(cloud: NovaSimulation) -> None:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("d", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)
        cloud.boot("d")
        cloud.boot("c")


# rows


def alter(table: sa.Table, column: str, **values: Any) -> Act:
    """Set columns of the subject's rows."""
    statement = sa.update(table).values(values)
    return lambda stage, subject: stage.everywhere(table, statement.where(table.c[column] == subject))


def drop(table: sa.Table, column: str) -> Act:
    """Delete the subject's rows."""
    return lambda stage, subject: stage.everywhere(table, sa.delete(table).where(table.c[column] == subject))


def add(database: str, table: sa.Table, column: str, **values: Any) -> Act:
    """Insert a row of the subject."""

    def act(stage: Stage, subject: str) -> None:
        stage.execute(database, sa.insert(table).values({"created_at": long_ago(), **values, column: subject}))

    return act


def both(*acts: Act) -> Act:
    """Do one after the other."""

    def act(stage: Stage, subject: str) -> None:
        for one in acts:
            one(stage, subject)

    return act


def mark_deleted(stage: Stage, table: sa.Table, column: str, subject: str) -> None:
    """Mark rows as deleted, as Nova does."""
    values = {"deleted": table.c.id, "deleted_at": long_ago()}
    stage.everywhere(table, sa.update(table).where(table.c[column] == subject).values(values))


# mappings


def set_mapping(**values: Any) -> Act:
    """Set columns of the instance's mapping."""
    return alter(tables.instance_mappings, "instance_uuid", **values)


MAPPED_TO_CELL2 = set_mapping(cell_id=3)
MAPPED_TO_NO_CELL = set_mapping(cell_id=None)
MARKED = set_mapping(queued_for_delete=True)
UNMARKED = set_mapping(queued_for_delete=False)
UNMARKED_ELSEWHERE = set_mapping(cell_id=3, queued_for_delete=False)
UNMAPPED = drop(tables.instance_mappings, "instance_uuid")
BUILD_REQUEST = add("nova_api", tables.build_requests, "instance_uuid", project_id="p", instance="{}")


def young_build_request(stage: Stage, instance: str) -> None:
    """Add a build request of this moment."""
    values = {"instance_uuid": instance, "project_id": "p", "instance": "{}", "created_at": long_ago(seconds=0)}
    stage.execute("nova_api", sa.insert(tables.build_requests).values(values))


# instances


def row_in(cell: str, **values: Any) -> Act:
    """Add a row of the instance in another cell."""
    row = {"project_id": "p", "user_id": "u", "vm_state": "active", "image_ref": "i", "hidden": False, "deleted": 0}
    return add(cell, tables.instances, "uuid", **{**row, **values})


def set_instance(**values: Any) -> Act:
    """Set columns of the instance's row, hours ago."""
    return alter(tables.instances, "uuid", **{"updated_at": long_ago(), **values})


def purged(stage: Stage, instance: str) -> None:
    """Delete the instance's row."""
    purge(stage.cloud, instance)


def delete_marked(stage: Stage, instance: str) -> None:
    """Mark the instance's row as deleted, hours ago."""
    mark_deleted(stage, tables.instances, "uuid", instance)


def archived(stage: Stage, instance: str) -> None:
    """Archive the deleted instance in its cell."""
    archive(stage.cloud, instance)


def changed_just_now(stage: Stage, instance: str) -> None:
    """Let the row have changed this moment."""
    alter(tables.instances, "uuid", updated_at=long_ago(seconds=0))(stage, instance)


RUNNING_TASK = set_instance(task_state="rebooting")
ELSEWHERE: Mapping[str, Act] = {
    "a live row in another cell": row_in("cell2"),
    "a live row in cell0": row_in("cell0"),
}


# allocations


def release(stage: Stage, consumer: str) -> None:
    """Remove the allocation."""
    stage.cloud.hold(consumer, {})


def hold_on(host: str, **amounts: int) -> Act:
    """Give the consumer exactly resources of one host."""

    def act(stage: Stage, consumer: str) -> None:
        stage.cloud.hold(
            consumer, {stage.cloud.node(host).uuid: amounts or {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}}
        )

    return act


def also_hold(host: str, **amounts: int) -> Act:
    """Give the consumer resources of another host besides."""

    def act(stage: Stage, consumer: str) -> None:
        more = {stage.cloud.node(host).uuid: amounts or {"VCPU": 1}}
        stage.cloud.hold(consumer, {**stage.cloud.allocation(consumer), **more})

    return act


def write_again(stage: Stage, consumer: str) -> None:
    """Write the same allocation, which raises its generation."""
    stage.cloud.hold(consumer, stage.cloud.allocation(consumer))


# migrations


def migration(dest: str, status: str, kind: str = "migration", source: str = "", **ago: float) -> Act:
    """Add a migration of the instance from its host, or from another one."""

    def act(stage: Stage, instance: str) -> None:
        add_migration(stage, instance, stage.cloud.node(dest), status, kind, source, **ago)

    return act


def add_migration(
    stage: Stage, instance: str, dest: Node, status: str, kind: str = "migration", source: str = "", **ago: float
) -> str:
    """Add a migration and nothing else; return its uuid."""
    cloud = stage.cloud
    row = cloud.instance(instance)
    begin = (source, cloud.node(source).name) if source else (row.host, row.node)
    made = str(uuid.uuid4())
    values = {
        "uuid": made,
        "instance_uuid": instance,
        "status": status,
        "migration_type": kind,
        "source_compute": begin[0],
        "source_node": begin[1],
        "dest_compute": dest.host,
        "dest_node": dest.name,
        "deleted": 0,
        "created_at": long_ago(**(ago or {"hours": 1})),
    }
    stage.execute(dest.cell, sa.insert(tables.migrations).values(values))
    return made


def set_migration(**values: Any) -> Act:
    """Set columns of the instance's migrations."""
    return alter(tables.migrations, "instance_uuid", **values)


UNFINISHED: Mapping[str, Act] = {
    "a running migration": migration("b", "running"),
    "a migration that waits to be confirmed": both(migration("b", "finished"), set_instance(vm_state="resized")),
    "a resized instance": set_instance(vm_state="resized"),
}
ELSEWHERE_LAST: Mapping[str, Act] = {
    "a younger migration to d": migration("d", "completed", "live-migration", minutes=30),
    "a younger live migration in error": migration("d", "error", "live-migration", minutes=30),
}


# answers


def another_placement(stage: Stage, subject: str) -> None:
    """Let Placement be that of another region, which knows none of the live compute nodes."""
    live = {node.uuid for node in stage.cloud.nodes()}
    with closing(sqlite3.connect(stage.cloud.placement.database, timeout=30)) as connection, connection:
        for provider in live:
            other = (str(uuid.uuid4()), provider)
            connection.execute("UPDATE resource_providers SET uuid = ? WHERE uuid = ?", other)


def cut(cell: str) -> Act:
    """Let a cell's database not answer."""
    c, url = tables.cell_mappings.c, "sqlite:////nowhere/at/all.db"
    statement = sa.update(tables.cell_mappings).where(c.name == cell).values(database_connection=url)
    return lambda stage, subject: stage.execute("nova_api", statement)


#: by dependency: lets it not answer
SILENCE: Mapping[str, Act] = {
    "cell2": cut("cell2"),
    "placement": lambda stage, subject: stage.cloud.placement.stop(),
    "block-storage": lambda stage, subject: stage.cinder.faults.update(GET=503, DELETE=503),
    "network": lambda stage, subject: stage.neutron.faults.update(GET=503, PUT=503, DELETE=503),
}
