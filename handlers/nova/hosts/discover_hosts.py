"""Map new compute hosts to their cells.

**What drifts.** A host runs nova-compute and has no row in ``host_mappings``. The scheduler may choose the host, but the
conductor finds no cell for it and buries the instance in cell0, in ERROR.

**Why Nova lets it.** Nova maps hosts by ``nova-manage cell_v2 discover_hosts``, or periodically if ``[scheduler]
discover_hosts_in_cells_interval`` is set.

**What is read.** ``host_mappings``; in every cell but cell0 the host's nova-compute service, even a disabled one, and its
compute nodes. On Galera, the event ``service.create`` can arrive before the service's row, so the handler reads again for up to
a second.

**What is changed.** A row is inserted into ``host_mappings``. Then ``compute_nodes.mapped`` is set to 1, so that Nova's own
discovery skips the nodes.

**What is not changed.** A host in several cells, or mapped to the wrong cell, is only reported. While a cell does not answer,
no host is mapped: that cell may have the host too.

**Why a race does no harm.** The unique key on the host refuses a second mapping. To delete a host, Nova deletes its mapping,
then its service; ``audit_services`` deletes a mapping inserted in between.

**Undo.** ``nova-manage cell_v2 delete_host --cell_uuid <cell> --host <host>``.

Sources: ``nova/objects/host_mapping.py`` (discover_hosts), ``nova/service.py`` (start), ``nova/conductor/manager.py``
(schedule_and_build_instances), ``nova/api/openstack/compute/services.py`` (delete).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, replace

import tenacity
from sqlalchemy.exc import IntegrityError

from handlers.base import Conflict, Finding, Healed, Key, Mode, Privilege, Trigger, Unavailable, keys_of
from handlers.nova import concerns, keys, queries
from handlers.nova.base import DatabaseHandler
from handlers.nova.cells import Cell
from handlers.nova.hosts import queries as host_queries
from handlers.nova.hosts.discovery_rules import HostFinding, Mapped, Presence, Problem, Unmapped, decide


class DiscoverHosts(DatabaseHandler):
    name = "discover_hosts"
    title = "Map new compute hosts to their cells, before an instance is scheduled to them"
    kinds = ("host",)
    healable_problems = frozenset({Problem.UNMAPPED})
    triggers = (
        Trigger("service.create", keys.compute_host),
        Trigger("instance.create.error", keys.failed_host),
        Trigger("compute_task.build_instances.error", keys.failed_host),
    )
    concerned_kinds = concerns.KINDS
    default_mode = Mode.HEAL
    default_interval = 600
    requires = ("nova_api",)
    cost = "Two queries per cell and one of nova_api; every ten minutes is fine, also for thousands of hosts."
    rights = {
        "nova_api": {"host_mappings": frozenset({Privilege.INSERT})},
        "cell": {"compute_nodes": frozenset({Privilege.UPDATE})},
    }

    def inspect(self, key: Key) -> Iterable[Finding]:
        mapping = self._databases.api.run(lambda connection: queries.host_mapping(connection, key.id))
        presences = self._presences(key.id)
        if mapping is None and not presences:
            presences = self._read_longer(key.id)
        found = decide(key.id, None if mapping is None else self._mapped_to(mapping.cell_id), presences)
        return [] if found is None else [self._finding(key, found, presences)]

    def sweep(self) -> Iterator[Key]:
        return self.sweep_cells(self._databases.host_cells())

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        normal = self._databases.host_names.normal
        mapped = {normal(host): cell for host, cell in self._databases.api.run(queries.mapped_hosts).items()}
        found, down = self._databases.run_in_available(cells, host_queries.present)
        for cell, (hosts, _) in found.items():
            yield from keys_of("host", sorted(host for host in hosts if mapped.get(normal(host)) != cell.id))
        if down is not None:
            raise down

    def population(self) -> int:
        counts, _ = self._databases.run_in_available(self._databases.host_cells(), queries.compute_services_count)
        return sum(counts.values())

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        evidence = Unmapped(**self.prove_again(finding).evidence)
        host, cell_id, cell = evidence.host, evidence.cell_id, self._cell(evidence.cell)
        try:
            self._databases.api.run(lambda connection: queries.insert_host_mapping(connection, host, cell_id))
        except IntegrityError as error:
            raise Conflict(
                f"another process mapped host {host}, or cell {cell.name} does not exist any more"
            ) from error
        return Healed(
            f"mapped host {host} to cell {cell.name or cell.uuid}",
            before={"cell": None},
            after={"cell": cell.uuid, "compute_nodes_marked": self._mark_nodes(cell, host)},
            undo=finding.undo,
        )

    def _mark_nodes(self, cell: Cell, host: str) -> int:
        marking = queries.marking_mapped(host)
        try:
            return self._databases.database(cell).run(lambda connection: int(connection.execute(marking).rowcount))
        except Unavailable:
            return 0

    def _mapped_to(self, cell_id: int) -> Mapped:
        uuids = {cell.id: cell.uuid for cell in self._databases.cells()}
        return Mapped(cell_id, uuids.get(cell_id, "CELL"))

    def _cell(self, uuid: str) -> Cell:
        for cell in self._databases.host_cells():
            if cell.uuid == uuid:
                return cell
        raise Conflict(f"the cell {uuid} does not exist any more")

    def _presences(self, host: str) -> Sequence[Presence]:
        found = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: host_queries.presence(connection, host)
        )
        return [
            Presence(cell, seen.name, seen.services, seen.nodes) for cell, seen in found.items() if seen is not None
        ]

    def _read_longer(self, host: str) -> Sequence[Presence]:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda found: not found),
            wait=tenacity.wait_fixed(0.3),
            stop=tenacity.stop_after_delay(1),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
        )
        return retrying(self._presences, host)

    def _finding(self, key: Key, found: HostFinding, presences: Sequence[Presence]) -> Finding:
        finding = Finding(
            key,
            found.problem,
            found.summary,
            asdict(found.evidence),
            healable=not found.refusal,
            refusal=found.refusal,
            concerns=frozenset[str]().union(
                *(concerns.of_cell(one.cell) | concerns.named("host", one.host) for one in presences)
            ),
        )
        match found.evidence:
            case Unmapped(host=host, cell_id=cell_id, cell=uuid):
                cell = self._databases.database(self._cell(uuid))
                mapping = self._databases.api.plan([queries.mapping_host(host, cell_id)])
                return replace(
                    finding,
                    undo=f"nova-manage cell_v2 delete_host --cell_uuid {uuid} --host {shlex.quote(host)}",
                    plan=f"{mapping}\n{cell.plan([queries.marking_mapped(host)])}",
                )
            case _:
                return finding
