"""The steps of Nova's flows, as the rows that another process sees in between.

Each flow is a generator: it writes what a service of Nova writes in one transaction or request, and yields the name of the
step. The order is that of Nova's source, which each flow names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation

Flow = Callable[[NovaSimulation], Iterator[str]]


def at(cloud: NovaSimulation, *hosts: str) -> dict[str, dict[str, int]]:
    """Return the resources of the default flavor on these hosts."""
    return {cloud.node(host).uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1} for host in hosts}


def _only(cloud: NovaSimulation) -> str:
    """Return the only server that has a mapping."""
    with cloud.api.connect() as connection:
        return str(connection.scalars(sa.select(tables.instance_mappings.c.instance_uuid)).one())


def _begin(cloud: NovaSimulation, server: str, host: str, kind: str, task: str) -> str:
    cloud.set_instance(server, task_state=task)
    return cloud._create_migration(server, cloud.instance(server), cloud.node(host), kind)


def boot(cloud: NovaSimulation) -> Iterator[str]:
    """nova/conductor/manager.py, schedule_and_build_instances; nova/compute/manager.py, _build_and_run_instance."""
    server = cloud.request()
    yield "requested"
    cloud.claim(server, "a")
    yield "claimed by the scheduler"
    cloud.create_instance(server, "cell1")
    yield "in its cell, not mapped"
    mappings = tables.instance_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.update(mappings).values(cell_id=2))
    yield "mapped, with its build request"
    cloud.map_instance(server, "cell1")
    yield "without a build request"
    cloud.set_instance(server, host="a", node="a", task_state="networking")
    yield "claimed by nova-compute"
    cloud.neutron.plug(server, "a")
    yield "with a port"
    cloud.set_instance(server, host=None, node=None, task_state="scheduling")
    yield "failed, to be scheduled again"
    cloud.hold(server, {})
    yield "without the first host's resources"
    cloud.claim(server, "b")
    yield "claimed again"
    cloud.set_instance(server, host="b", node="b", task_state="spawning")
    yield "claimed by the second nova-compute"


def boot_without_hosts(cloud: NovaSimulation) -> Iterator[str]:
    """nova/conductor/manager.py, _bury_in_cell0."""
    server = cloud.request()
    cloud.create_instance(server, "cell0")
    cloud.set_instance(server, vm_state="error", task_state=None)
    yield "in cell0, not mapped"
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(cell_id=1))
    yield "mapped to cell0, with its build request"


def resize(cloud: NovaSimulation) -> Iterator[str]:
    """nova/conductor/tasks/migrate.py; nova/compute/manager.py, _prep_resize to _confirm_resize."""
    server = cloud.boot("a")
    move = _begin(cloud, server, "b", "resize", "resize_prep")
    yield "begun"
    cloud.set_migration(move, status="pre-migrating")
    cloud._report.move(server, move)
    yield "source held by the migration"
    cloud.claim(server, "b")
    yield "destination claimed"
    cloud.set_migration(move, status="migrating")
    cloud.set_instance(server, task_state="resize_migrating")
    yield "guest on its way"
    cloud.neutron.move(server, "b")
    yield "ports on the destination"
    cloud.set_migration(move, status="post-migrating")
    cloud.set_instance(server, host="b", node="b", task_state="resize_migrated")
    yield "host written"
    cloud.set_instance(server, task_state="resize_finish")
    yield "being started"
    cloud.set_instance(server, vm_state="resized", task_state=None)
    yield "resized, migration not finished"
    cloud.set_migration(move, status="finished")
    yield "waits for the user"


def confirm(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/api.py, confirm_resize; nova/compute/manager.py, confirm_resize."""
    *_, _ = resize(cloud)
    [move] = [row.uuid for row in cloud.migrations(_only(cloud))]
    cloud.set_migration(move, status="confirming")
    yield "confirming"


def revert(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/manager.py, _revert_resize, _finish_revert_resize."""
    *_, _ = resize(cloud)
    server = _only(cloud)
    [move] = [row.uuid for row in cloud.migrations(server)]
    cloud.set_instance(server, task_state="resize_reverting")
    yield "asked"
    cloud.set_migration(move, status="reverting")
    yield "reverting"
    cloud.set_instance(server, host="a", node="a")
    yield "host written"
    cloud.hold(server, {})
    cloud._report.move(move, server)
    yield "source held by the instance"
    cloud.neutron.move(server, "a")
    yield "ports on the source"
    cloud.set_migration(move, status="reverted")
    yield "reverted, with the task"


def resize_on_one_host(cloud: NovaSimulation) -> Iterator[str]:
    """The same node gives the resources of both sizes, to the migration and to the instance."""
    server = cloud.boot("a")
    move = _begin(cloud, server, "a", "resize", "resize_prep")
    cloud._report.move(server, move)
    yield "source held by the migration"
    cloud.claim(server, "a")
    yield "claimed twice"
    cloud.set_migration(move, status="finished")
    cloud.set_instance(server, vm_state="resized", task_state=None)
    yield "waits for the user"


def live_migration(cloud: NovaSimulation) -> Iterator[str]:
    """nova/conductor/tasks/live_migrate.py; nova/compute/manager.py, _do_live_migration, _post_live_migration."""
    server = cloud.boot("a")
    move = _begin(cloud, server, "b", "live-migration", "migrating")
    yield "begun"
    cloud._report.move(server, move)
    yield "source held by the migration"
    cloud.claim(server, "b")
    yield "destination claimed"
    for status in ("preparing", "running"):
        cloud.set_migration(move, status=status)
        yield status
    cloud.neutron.move(server, "b")
    yield "ports on the destination"
    cloud.set_instance(server, host="b", node="b", task_state=None)
    yield "host written, migration still running"


def live_migration_back(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/manager.py, _rollback_live_migration."""
    server = cloud.boot("a")
    move = _begin(cloud, server, "b", "live-migration", "migrating")
    cloud._report.move(server, move)
    cloud.claim(server, "b")
    cloud.set_migration(move, status="running")
    cloud.hold(server, {})
    yield "nothing held by the instance"
    cloud._report.move(move, server)
    yield "source held by the instance"
    cloud.set_instance(server, task_state=None)
    yield "without task, migration still running"


def evacuation(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/api.py, evacuate; nova/compute/resource_tracker.py, finish_evacuation."""
    server = cloud.boot("a")
    cloud.force_down("a")
    move = _begin(cloud, server, "b", "evacuation", "rebuilding")
    yield "accepted"
    cloud.claim(server, "b")
    yield "both hosts held"
    cloud.set_migration(move, status="pre-migrating")
    yield "claimed by nova-compute"
    cloud.neutron.move(server, "b")
    yield "ports on the destination"
    cloud.set_instance(server, task_state="rebuild_spawning")
    yield "being started"
    cloud.set_instance(server, host="b", node="b")
    yield "host written, migration not done"
    cloud.set_instance(server, task_state=None)
    yield "active, migration not done"


def rebuild(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/api.py, rebuild; nova/compute/manager.py, rebuild_instance. The instance stays on its host."""
    server = cloud.boot("a")
    for task in ("rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"):
        cloud.set_instance(server, task_state=task)
        yield task


def shelve(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/manager.py, _shelve_instance, _shelve_offload_instance."""
    server = cloud.boot("a")
    cloud.set_instance(server, task_state="shelving")
    yield "shelving"
    cloud.set_instance(server, vm_state="shelved", task_state=None)
    yield "shelved"
    cloud.set_instance(server, task_state="shelving_offloading")
    yield "offloading"
    cloud.neutron.move(server, "")
    yield "ports unbound"
    cloud.hold(server, {})
    yield "nothing held"
    cloud.set_instance(server, vm_state="shelved_offloaded", task_state=None)
    yield "offloaded, with its host"
    cloud.set_instance(server, host=None, node=None)
    yield "offloaded"


def unshelve(cloud: NovaSimulation) -> Iterator[str]:
    """nova/conductor/manager.py, unshelve_instance; nova/compute/manager.py, _unshelve_instance. The user may name the host."""
    server = cloud.boot("a")
    cloud.shelve_offload(server)
    cloud.set_instance(server, task_state="unshelving")
    yield "unshelving"
    cloud.claim(server, "b")
    yield "claimed by the scheduler"
    cloud.set_instance(server, task_state="spawning")
    yield "spawning, without host"
    cloud.set_instance(server, host="b", node="b")
    yield "claimed by nova-compute"
    cloud.neutron.move(server, "b")
    yield "ports bound"
    cloud.hold(server, {})
    yield "failed, nothing held"
    cloud.set_instance(server, host=None, node=None, task_state=None)
    yield "offloaded again, with bound ports"


def deletion(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/api.py, _delete; nova/compute/manager.py, _delete_instance, _complete_deletion."""
    server = cloud.boot("a")
    cloud.set_instance(server, task_state="deleting")
    yield "asked"
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(queued_for_delete=True))
    yield "marked"
    cloud.neutron.unplug(server)
    yield "without ports"
    cloud.set_instance(server, vm_state="deleted", task_state=None)
    yield "without guest"
    cloud.hold(server, {})
    yield "nothing held"


def soft_deletion(cloud: NovaSimulation) -> Iterator[str]:
    """nova/compute/api.py, soft_delete, restore."""
    server = cloud.boot("a")
    cloud.set_instance(server, task_state="soft-deleting")
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(queued_for_delete=True))
    yield "asked"
    cloud.set_instance(server, vm_state="soft-delete", task_state=None)
    yield "soft-deleted"
    cloud.set_instance(server, task_state="restoring")
    yield "restoring, with the mark"
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(queued_for_delete=False))
    yield "restoring"


def cross_cell_resize(cloud: NovaSimulation) -> Iterator[str]:
    """nova/conductor/tasks/cross_cell_migrate.py, CrossCellMigrationTask, and the first steps of ConfirmResizeTask."""
    server = cloud.boot("a")
    source, target = cloud.cells["cell1"], cloud.cells["cell2"]
    cloud.set_instance(server, task_state="resize_prep")
    node = cloud.node("c")
    row = dict(cloud.instance(server)._mapping)
    move: dict[str, Any] = {
        "uuid": "5a0a0c6e-3b1d-4c1c-9b5a-0e6f0c1d2e3f",
        "instance_uuid": server,
        "source_compute": "a",
        "source_node": "a",
        "dest_compute": None,
        "dest_node": None,
        "status": "pre-migrating",
        "migration_type": "resize",
        "cross_cell_move": True,
        "deleted": 0,
        "created_at": row["created_at"],
    }
    with source.begin() as connection:
        connection.execute(sa.insert(tables.migrations).values(id=901, **move))
    cloud._report.move(server, move["uuid"])
    cloud.hold(server, at(cloud, "c"))
    yield "destination claimed, in the source's cell alone"
    places = {"dest_compute": "c", "dest_node": node.name}
    with target.begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row, "id": 901, "hidden": True}))
        connection.execute(sa.insert(tables.migrations).values(id=901, **{**move, **places}))
    yield "a hidden copy in the other cell"

    def write(engine: sa.Engine, status: str, **values: object) -> None:
        i, m = tables.instances, tables.migrations
        with engine.begin() as connection:
            if values:
                connection.execute(sa.update(i).where(i.c.uuid == server).values(**values))
            connection.execute(sa.update(m).where(m.c.uuid == move["uuid"]).values(status=status, **places))

    write(source, "post-migrating", host="c", node="c", task_state="resize_migrated")
    yield "stopped on the source"
    cloud.neutron.move(server, "c")
    write(target, "finished", host="c", node="c", vm_state="resized", task_state=None)
    yield "resized in the other cell, still hidden"
    write(target, "finished", hidden=False)
    yield "visible in both cells"
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(cell_id=3))
    yield "mapped to the other cell"
    write(source, "finished", hidden=True, vm_state="resized", task_state=None)
    yield "waits for the user"
    write(target, "confirming")
    yield "confirming"
    with source.begin() as connection:
        for table in (tables.instances, tables.instance_extra, tables.migrations):
            name = "uuid" if table is tables.instances else "instance_uuid"
            connection.execute(sa.delete(table).where(table.c[name] == server))
    yield "gone from the first cell"


FLOWS: tuple[Flow, ...] = (
    boot,
    boot_without_hosts,
    resize,
    confirm,
    revert,
    resize_on_one_host,
    live_migration,
    live_migration_back,
    evacuation,
    rebuild,
    shelve,
    unshelve,
    deletion,
    soft_deletion,
    cross_cell_resize,
)
