from __future__ import annotations

import uuid as uuids
from typing import Any

from sqlalchemy import Row

from handlers.nova import tables
from handlers.nova.simulation.records import Node
from handlers.nova.simulation.servers import Servers


class Moves(Servers):
    def start_migration(self, uuid: str, host: str, live: bool = False) -> str:
        """Begin a migration (nova.conductor.tasks.migrate, .live_migrate).

        :return: the migration's uuid
        """
        source, target = self.instance(uuid), self.node(host)
        self.set_instance(uuid, task_state="migrating" if live else "resize_prep")
        migration = self._create_migration(uuid, source, target, "live-migration" if live else "migration")
        self._report.move(uuid, migration)
        self.claim(uuid, host)
        self.set_migration(migration, status="running" if live else "migrating")
        if live:
            self._publish_instance(uuid, "instance.live_migration_pre.end", f"nova-compute:{host}")
        else:
            self.set_instance(uuid, task_state="resize_migrating")
        return migration

    def finish_migration(self, migration: str) -> None:
        """Run the instance on the destination. A cold migration then waits for :meth:`confirm_migration`
        (nova.compute.manager.finish_resize). A live migration then releases the source's allocation
        (nova.compute.manager._post_live_migration).
        """
        row = self.migration(migration)
        here = {"host": row.dest_compute, "node": row.dest_node}
        if row.migration_type == "live-migration":
            self.neutron.move(row.instance_uuid, row.dest_compute)
            self.set_instance(row.instance_uuid, **here, task_state=None)
            self._publish_instance(
                row.instance_uuid, "instance.live_migration_post.end", f"nova-compute:{row.source_compute}"
            )
            self.set_migration(migration, status="completed")
            self.hold(migration, {})
        else:
            self.set_migration(migration, status="post-migrating")
            self.neutron.move(row.instance_uuid, row.dest_compute)
            self.set_instance(row.instance_uuid, **here, task_state="resize_finish")
            self.set_migration(migration, status="finished")
            self.set_instance(row.instance_uuid, vm_state="resized", task_state=None)
            self._publish_instance(row.instance_uuid, "instance.resize_finish.end", f"nova-compute:{row.dest_compute}")

    def confirm_migration(self, migration: str, leak_allocation: bool = False) -> None:
        """Confirm a cold migration: publish ``instance.resize_confirm.end``, and only then release the source's allocation
        (nova.compute.manager.confirm_resize).

        :param leak_allocation: whether nova-compute dies between the two steps
        """
        row = self.migration(migration)
        self.set_migration(migration, status="confirming")
        self.set_migration(migration, status="confirmed")
        self.set_instance(row.instance_uuid, vm_state="active", task_state=None)
        self._publish_instance(row.instance_uuid, "instance.resize_confirm.end", f"nova-compute:{row.source_compute}")
        if not leak_allocation:
            self.hold(migration, {})

    def fail_migration(self, migration: str, leak_allocation: bool = False) -> None:
        """Roll a live migration back (nova.compute.manager._rollback_live_migration).

        :param leak_allocation: whether Placement rejects the roll-back
        """
        row = self.migration(migration)
        if not leak_allocation:
            self.hold(row.instance_uuid, {})
            self._report.move(migration, row.instance_uuid)
        self.set_instance(row.instance_uuid, vm_state="active", task_state=None)
        self._publish_instance(
            row.instance_uuid, "instance.live_migration_rollback.end", f"nova-compute:{row.source_compute}"
        )
        self.set_migration(migration, status="failed")

    def start_evacuation(self, uuid: str, host: str) -> str:
        """Begin to rebuild a dead host's instance on ``host``. The allocation then names both hosts
        (nova.compute.api.API.evacuate, nova.conductor.manager.rebuild_instance).

        :return: the migration's uuid
        """
        source, target = self.instance(uuid), self.node(host)
        self.set_instance(uuid, task_state="rebuilding")
        migration = self._create_migration(uuid, source, target, "evacuation")
        self._publish_instance(uuid, "instance.evacuate", "nova-api:controller")
        self.claim(uuid, host)
        self.set_migration(migration, status="pre-migrating")
        return migration

    def finish_evacuation(self, migration: str) -> None:
        """Run the instance on the new host. The dead host stays in the allocation until that host returns
        (nova.compute.manager._do_rebuild_instance_with_claim, _destroy_evacuated_instances).
        """
        row = self.migration(migration)
        self.neutron.move(row.instance_uuid, row.dest_compute)
        self.set_instance(row.instance_uuid, host=row.dest_compute, node=row.dest_node, task_state="rebuild_spawning")
        self.set_migration(migration, status="done")
        self.set_instance(row.instance_uuid, vm_state="active", task_state=None)
        self._publish_instance(row.instance_uuid, "instance.rebuild.end", f"nova-compute:{row.dest_compute}")

    def evacuate(self, uuid: str, host: str) -> str:
        migration = self.start_evacuation(uuid, host)
        self.finish_evacuation(migration)
        return migration

    def _create_migration(self, uuid: str, source: Row[Any], target: Node, kind: str) -> str:
        if self._store.find(tables.instances, tables.instances.c.uuid == uuid)[1] != target.cell:
            raise ValueError(f"{target.host} is in another cell than the instance")
        migration = str(uuids.uuid4())
        self._store.insert(
            self.cells[target.cell],
            tables.migrations,
            uuid=migration,
            instance_uuid=uuid,
            source_compute=source.host,
            source_node=source.node,
            dest_compute=target.host,
            dest_node=target.name,
            status="accepted",
            migration_type=kind,
            hidden=False,
            cross_cell_move=False,
            project_id=self.PROJECT,
            user_id=self.USER,
        )
        return migration
