"""A cloud that lives: everything that moves allocations, mappings and rows, at the same time, in less than a minute.

Each life below is one thread and a server or two of its own. The residents are booted once and live on, so that tasks
which leave the young alone look at them, too; others come and go in each round. One host is only there to be lost: it
takes no servers but the one that is evacuated from it.

A step that Nova refuses, or a server in ERROR, fails the round: a program beside the cloud that gets in Nova's way shows
as such a failure, too.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import tenacity

from tests.cloud import drift
from tests.cloud.control_plane import CELLS, ControlPlane, wait_until
from tests.cloud.seed import together

#: The host that is lost in each round.
SPARE = "compute-spare"
#: The host that is added and deleted in each round.
GUEST = "compute-guest"
#: Where residents are booted, and their cells.
_HOMES = {"confirmed": "compute-1", "reverted": "compute-2", "moved": "compute-1", "shelved": "compute-2"}
#: The residents of :meth:`Lifecycle.one_of_each_cell`. They have a port: its binding attests their host.
_ONE_OF_EACH_CELL = {"cell1": "confirmed", "cell2": "neighbour"}
#: Days by which what was deleted is made older.
AGED_DAYS = 90


@dataclass
class Round:
    """What one round leaves.

    :param lately: servers that were deleted just now
    :param long_ago: servers that were deleted, and whose rows say that it was three months ago; by cell
    """

    lately: set[str] = field(default_factory=set)
    long_ago: dict[str, str] = field(default_factory=dict)


class Lifecycle:
    """Servers and what happens to them.

    :param cloud: with compute-1 and compute-2 in cell1 and compute-3 in cell2
    """

    def __init__(self, cloud: ControlPlane) -> None:
        self._cloud = cloud
        self._compute = cloud.admin.compute
        self.residents: dict[str, Any] = {}
        self._aggregates: list[Any] = []
        self._plugged: dict[str, Any] = {}

    @property
    def alive(self) -> dict[str, str]:
        """The residents' cells."""
        return {server.id: "cell2" if name == "neighbour" else "cell1" for name, server in self.residents.items()}

    def settle(self) -> None:
        """Add the spare host, and boot the residents."""
        self._cloud.add_compute(SPARE, "cell1")
        self._plugged = {"networks": [{"uuid": drift.create_network(self._cloud, "lives")}]}
        homes = {**_HOMES, "neighbour": "compute-3"}
        more = dict.fromkeys(_ONE_OF_EACH_CELL.values(), self._plugged)
        booted = together(
            *(lambda name=name, host=host: self._boot(name, host, **more.get(name, {})) for name, host in homes.items())
        )
        self.residents = dict(zip(homes, booted, strict=True))
        self._cloud.wait_for_compute(SPARE)
        self._cloud.discover_hosts()
        self._aggregates = [self._compute.create_aggregate(name=f"rack-{uuid.uuid4().hex[:8]}") for _ in range(2)]
        self._compute.add_host_to_aggregate(self._aggregates[0].id, "compute-1")
        self._man_the_spare()

    def round(self) -> Round:
        """Live once."""
        done = Round()
        together(
            self._resize_and_confirm,
            self._resize_and_revert,
            self._migrate,
            self._shelve,
            self._evacuate,
            self._change_aggregates,
            self._host_comes_and_goes,
            lambda: self._come_and_go(done, "compute-1", "cell1"),
            lambda: self._come_and_go(done, "compute-3", "cell2"),
        )
        self._man_the_spare()
        return done

    def one_of_each_cell(self) -> dict[str, str]:
        """Return a resident of each cell, old enough for tasks that leave the young alone."""
        chosen: dict[str, str] = {cell: self.residents[name].id for cell, name in _ONE_OF_EACH_CELL.items()}
        for cell, server_id in chosen.items():
            older = ", ".join(
                f"{name} = {name} - INTERVAL 1 HOUR" for name in ("created_at", "updated_at", "launched_at")
            )
            self._cloud.mariadb.execute(f"UPDATE instances SET {older} WHERE uuid = '{server_id}'", f"nova_{cell}")
            self._cloud.mariadb.execute(
                "UPDATE instance_mappings SET created_at = created_at - INTERVAL 1 HOUR,"
                f" updated_at = updated_at - INTERVAL 1 HOUR WHERE instance_uuid = '{server_id}'",
                "nova_api",
            )
        return chosen

    def rest(self) -> None:
        """Let it be an hour since anything happened to the residents and to what was deleted: nothing is too young to judge."""
        residents = ", ".join(f"'{server.id}'" for server in self.residents.values())
        of = {
            "instances": f"uuid IN ({residents})",
            "migrations": f"instance_uuid IN ({residents})",
            "services": "deleted <> 0",
            "compute_nodes": "deleted <> 0",
        }
        for cell in CELLS:
            for table, which in of.items():
                older = ", ".join(
                    f"{name} = {name} - INTERVAL 1 HOUR" for name in ("created_at", "updated_at", "deleted_at")
                )
                self._cloud.mariadb.execute(f"UPDATE {table} SET {older} WHERE {which}", f"nova_{cell}")

    def fail_to_migrate(self, cell: str, server_id: str) -> str:
        """Ask for a migration for which there is no host; return the uuid of what became of it."""
        migrated = f"FROM migrations WHERE instance_uuid = '{server_id}' AND status = 'error' AND deleted = 0"
        count = f"SELECT COUNT(*) {migrated}"
        before = int(self._cloud.mariadb.execute(count, f"nova_{cell}"))
        # the spare host is disabled, and cell2 has no other
        self._compute.migrate_server(server_id, host=SPARE if cell == "cell1" else None)
        wait_until(
            lambda: int(self._cloud.mariadb.execute(count, f"nova_{cell}")) > before, 120, "the end of the migration"
        )
        self._cloud.wait_for_server(server_id, timeout=120)
        return self._cloud.mariadb.execute(f"SELECT uuid {migrated} ORDER BY id DESC LIMIT 1", f"nova_{cell}").strip()

    def visitors(self, **more: Any) -> dict[str, str]:
        """Boot a server in each cell, which the caller deletes.

        :param more: as for :meth:`ControlPlane.boot`
        """
        hosts = {"cell1": "compute-1", "cell2": "compute-3"}
        booted = together(*(lambda host=host: self._boot("visitor", host, **more) for host in hosts.values()))
        return {cell: server.id for cell, server in zip(hosts, booted, strict=True)}

    def leave(self) -> None:
        """Delete everything."""
        together(*(lambda server=server: self._cloud.delete(server.id) for server in self.residents.values()))
        for aggregate in self._aggregates:
            for host in self._compute.get_aggregate(aggregate.id).hosts or []:
                self._compute.remove_host_from_aggregate(aggregate.id, host)
            self._compute.delete_aggregate(aggregate.id)
        self._cloud.remove_compute(SPARE)
        self._compute.delete_service(self._spare_service())

    # lives

    def _resize_and_confirm(self) -> None:
        server = self.residents["confirmed"]
        flavor = "small" if self._flavor(server) == "tiny" else "tiny"
        self._compute.resize_server(server, flavor)
        self._cloud.wait_for_server(server.id, "VERIFY_RESIZE")
        self._compute.confirm_server_resize(server)
        self._cloud.wait_for_server(server.id)
        self._compute.migrate_server(server)
        self._cloud.wait_for_server(server.id, "VERIFY_RESIZE")
        self._compute.confirm_server_resize(server)
        self._cloud.wait_for_server(server.id)

    def _resize_and_revert(self) -> None:
        server = self.residents["reverted"]
        for _ in range(2):
            self._compute.resize_server(server, "small")
            self._cloud.wait_for_server(server.id, "VERIFY_RESIZE")
            self._compute.revert_server_resize(server)
            self._cloud.wait_for_server(server.id)

    def _migrate(self) -> None:
        server = self.residents["moved"]
        for _ in range(3):
            here = self._compute.get_server(server.id).compute_host
            self._compute.live_migrate_server(server, host=None, block_migration="auto")
            wait_until(partial(self._has_left, server, here), 90, "the live migration")
            self._cloud.wait_for_server(server.id)

    def _has_left(self, server: Any, host: str) -> bool:
        return self._host(server) != host

    def _shelve(self) -> None:
        server = self.residents["shelved"]
        self._compute.shelve_server(server)
        self._cloud.wait_for_server(server.id, "SHELVED_OFFLOADED", 120)
        self._compute.unshelve_server(server)
        self._cloud.wait_for_server(server.id, timeout=120)

    def _evacuate(self) -> None:
        server = self.residents["evacuated"]
        self._cloud.lose_host(SPARE)
        self._compute.evacuate_server(server.id)
        wait_until(lambda: self._host(server) != SPARE, 120, "the evacuation")
        self._cloud.wait_for_server(server.id, "SHUTOFF", 120)
        self._cloud.return_host(SPARE, 120)

    def _change_aggregates(self) -> None:
        first, second = self._aggregates
        for _ in range(6):
            for aggregate, host in ((first, "compute-2"), (second, "compute-1"), (second, "compute-3")):
                self._compute.add_host_to_aggregate(aggregate.id, host)
            for aggregate, host in ((second, "compute-1"), (first, "compute-2"), (second, "compute-3")):
                self._compute.remove_host_from_aggregate(aggregate.id, host)

    def _host_comes_and_goes(self) -> None:
        """A host is added and deleted; the next round it is back, as itself, under the deleted rows of its former life."""
        self._cloud.add_compute(GUEST, "cell2")
        try:
            self._cloud.wait_for_compute(GUEST, timeout=180)
            self._cloud.discover_hosts()
            for service in self._compute.services(binary="nova-compute", host=GUEST):
                self._compute.disable_service(service, disabled_reason="only a guest")
        finally:
            self._cloud.remove_compute(GUEST)
        for service in self._compute.services(binary="nova-compute", host=GUEST):
            self._compute.delete_service(service)

    def _come_and_go(self, done: Round, host: str, cell: str) -> None:
        """Boot and delete; let some of the deletions be old; archive as an operator would, while others are deleted."""
        lately, early, late = (self._boot(name, host, **self._plugged).id for name in ("lately", "early", "late"))
        self._cloud.delete(lately)
        self._cloud.delete(early)
        self.age(cell, early)
        if cell == "cell1":
            self._cloud.nova_manage("db", "archive_deleted_rows", "--all-cells")
        self._cloud.delete(late)
        self.age(cell, late)
        done.lately.add(lately)
        done.long_ago |= {early: cell, late: cell}

    # steps

    def age(self, cell: str, server_id: str) -> None:
        """Make the deletion of a server three months older, in all its rows."""
        tables = self._cloud.mariadb.execute(
            "SELECT DISTINCT c.table_name FROM information_schema.columns c"
            " JOIN information_schema.columns d ON d.table_schema = c.table_schema AND d.table_name = c.table_name"
            f" WHERE c.table_schema = 'nova_{cell}' AND c.column_name = 'instance_uuid' AND d.column_name = 'deleted_at'"
        ).split()
        older = ", ".join(
            f"x.{column} = x.{column} - INTERVAL {AGED_DAYS} DAY"
            for column in ("created_at", "updated_at", "deleted_at")
        )
        # Either the live or the shadow row: nova-manage or stackmend may have been here before.
        of = f"WHERE a.instance_uuid = '{server_id}'"
        statements = [f"UPDATE {p}instances x SET {older} WHERE x.uuid = '{server_id}'" for p in ("", "shadow_")]
        statements += [f"UPDATE {table} x SET {older} WHERE x.instance_uuid = '{server_id}'" for table in tables]
        statements += [
            f"UPDATE {p}instance_actions_events x JOIN {p}instance_actions a ON a.id = x.action_id SET {older} {of}"
            for p in ("", "shadow_")
        ]
        self._execute(f"BEGIN; {'; '.join(statements)}; COMMIT", f"nova_{cell}")

    @tenacity.retry(
        retry=tenacity.retry_if_exception_message(match="(?s).*ERROR 1213"),
        stop=tenacity.stop_after_attempt(10),
        reraise=True,
    )
    def _execute(self, statements: str, schema: str) -> None:
        """Execute statements; repeat them after a deadlock with an archive, as Nova's own do."""
        self._cloud.mariadb.execute(statements, schema)

    def _boot(self, name: str, host: str, **more: Any) -> Any:
        booted = self._cloud.boot(f"{name}-{uuid.uuid4().hex[:6]}", host=host, wait=False, **more)
        return self._cloud.wait_for_server(booted.id, timeout=120)

    def _man_the_spare(self) -> None:
        """Put another server on the spare host, where no other may go."""
        gone = self.residents.pop("evacuated", None)
        if gone is not None:
            self._cloud.delete(gone.id)
            self._compute.enable_service(self._spare_service())
        self.residents["evacuated"] = self._boot("evacuated", SPARE)
        self._compute.disable_service(self._spare_service(), disabled_reason="only here to be lost")

    def _spare_service(self) -> Any:
        [service] = self._compute.services(binary="nova-compute", host=SPARE)
        return service

    def _host(self, server: Any) -> str:
        return str(self._compute.get_server(server.id).compute_host)

    def _flavor(self, server: Any) -> str:
        return str(self._compute.get_server(server.id).flavor["original_name"])
