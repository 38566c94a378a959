"""Maps new compute hosts to their cells.

**What drifts.** A host runs nova-compute but has no row in ``host_mappings``. As soon as its resource provider exists the
scheduler may choose it; the conductor then finds no cell for it and buries the instance in cell0, in ERROR.

**Why Nova lets it.** Nothing in Nova maps a host when it appears. An operator runs ``nova-manage cell_v2 discover_hosts``
or sets ``[scheduler] discover_hosts_in_cells_interval``, which is off by default.

**What is read.** ``host_mappings``; in every cell but cell0 the live nova-compute service of the host (also a disabled
one) and its live compute nodes (several, with ironic). The service is there seconds before the compute node and the
provider are, so a host that is mapped when ``service.create`` arrives is mapped before anything can be scheduled to it.

The event may overtake the row: on Galera another node shows it some milliseconds later. So when a host that nobody has
mapped is found nowhere, it is looked for again for about a second. A host that is nowhere even then is no drift.

**What is changed.** One row is inserted into ``host_mappings``; the unique key on the host decides races, and the loser
looks again. Then ``compute_nodes.mapped`` is set to 1 where it is not: a courtesy to Nova's own discovery, which looks
at unmapped nodes only. Mapped hosts whose nodes lack the mark are put right when somebody looks at the host, but no sweep
goes after them: it harms nobody, and after years of ``--by-service`` it is the whole fleet.

**What is not changed.** A host that is in several cells, or mapped to another cell than it is in, is reported: which one
is right is for a person to say. While any cell does not answer, no host is mapped, because it might be there as well.

**Races.** When a service is deleted, Nova deletes the host's mapping first and the service a moment later. A look between the
two takes the host for new and maps it; ``audit_services`` tells of the mapping that is left, on ``service.delete``.

**Undo.** ``nova-manage cell_v2 delete_host --cell_uuid <cell> --host <host>``.

Sources: ``nova/objects/host_mapping.py`` (discover_hosts), ``nova/service.py`` (start), ``nova/conductor/manager.py``
(schedule_and_build_instances), ``nova/api/openstack/compute/services.py`` (delete).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import tenacity
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from handlers.base import Conflict, Finding, Healed, Key, Mode, Privilege, Refused, Trigger, Unavailable
from handlers.nova import keys, queries
from handlers.nova.base import DatabaseHandler
from handlers.nova.cells import Cell


@dataclass(frozen=True, slots=True)
class Presence:
    """A host in one cell.

    :param host: as the cell spells it
    :param nodes: ids of its compute nodes
    :param unmarked: those that are not marked as mapped
    """

    cell: Cell
    host: str
    nodes: tuple[int, ...]
    unmarked: tuple[int, ...]


def decide(key: Key, mapped_to: int | None, presences: Sequence[Presence]) -> Finding | None:
    """Say what is wrong with a host that is mapped to this cell (None: to none) and present in these cells."""
    if not presences:
        return None  # there is no such host; a mapping that it left behind is another drift
    names = [presence.cell.name or presence.cell.uuid for presence in presences]
    if len(presences) > 1:
        return Finding(
            key,
            "host-in-several-cells",
            f"host {key.id} has services or compute nodes in the cells {', '.join(names)}",
            {"host": key.id, "cells": [presence.cell.uuid for presence in presences], "mapped_to": mapped_to},
            healable=False,
            refusal="a host belongs to one cell; delete the service in the others (openstack compute service delete)",
        )
    [presence] = presences
    if mapped_to is None:
        return Finding(
            key,
            "host-unmapped",
            f"host {presence.host} of {names[0]} is not mapped: instances scheduled to it end in cell0",
            {"host": presence.host, "cell": presence.cell.uuid, "cell_id": presence.cell.id},
        )
    if mapped_to != presence.cell.id:
        return Finding(
            key,
            "host-mapped-elsewhere",
            f"host {presence.host} lives in {names[0]} but is mapped to another cell",
            {"host": presence.host, "cell": presence.cell.uuid, "mapped_to": mapped_to},
            healable=False,
            refusal="instances may still be in the other cell; check, then nova-manage cell_v2 delete_host and wait",
        )
    if presence.unmarked:
        return Finding(
            key,
            "node-unmarked",
            f"host {presence.host} is mapped, but its compute nodes are not marked so",
            {"host": presence.host, "cell": presence.cell.uuid, "nodes": list(presence.unmarked)},
        )
    return None


class DiscoverHosts(DatabaseHandler):
    """See the module."""

    name = "discover_hosts"
    title = "Map new compute hosts to their cells, before an instance is scheduled to them"
    kinds = ("host",)
    healable_problems = frozenset({"host-unmapped", "node-unmarked"})
    triggers = (
        Trigger("service.create", keys.compute_host),
        Trigger("instance.create.error", keys.failed_host),
        Trigger("compute_task.build_instances.error", keys.failed_host),
    )
    default_mode = Mode.HEAL
    default_interval = 600
    requires = ("nova_api",)
    cost = "Two queries per cell and one of nova_api; every ten minutes is fine, also for thousands of hosts."
    rights = {
        "nova_api": {"host_mappings": frozenset({Privilege.INSERT})},
        "cell": {"compute_nodes": frozenset({Privilege.UPDATE})},
    }

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Compare one host's mapping with the cells it is in."""
        mapping = self._databases.api.run(lambda connection: queries.host_mapping(connection, key.id))
        presences = self._presences(key.id)
        if mapping is None and not presences:
            presences = self._look_longer(key.id)
        finding = decide(key, None if mapping is None else mapping.cell_id, presences)
        return [] if finding is None else [finding]

    def sweep(self) -> Iterator[Key]:
        """Yield the hosts that are in a cell but not mapped to it."""
        mapped = self._databases.api.run(queries.mapped_hosts)
        found, down = self._databases.run_in_available(self._databases.host_cells(), _hosts)
        for cell, hosts in found.items():
            yield from (Key("host", host) for host in sorted(hosts) if mapped.get(host) != cell.id)
        if down is not None:
            raise down

    def population(self) -> int:
        """How many nova-compute services there are in the cells that answer."""
        counts, _ = self._databases.run_in_available(self._databases.host_cells(), queries.compute_services_count)
        return sum(counts.values())

    def heal(self, finding: Finding) -> Healed:
        """Insert the mapping, or set the mark; only when everything is still as it was proved."""
        self._databases.require_known_schema()
        again = self.inspect(finding.key)
        if not any(now.problem == finding.problem and now.evidence == finding.evidence for now in again):
            raise Conflict(f"{finding.key} is not as it was")
        heals: Mapping[str, Callable[[Finding], Healed]] = {"host-unmapped": self._map, "node-unmarked": self._mark}
        if finding.problem not in heals:
            raise Refused(finding.refusal)
        return heals[finding.problem](finding)

    def _map(self, finding: Finding) -> Healed:
        host, cell_id = finding.evidence["host"], finding.evidence["cell_id"]
        cell = self._cell(finding)
        try:
            self._databases.api.run(lambda connection: queries.insert_host_mapping(connection, host, cell_id))
        except IntegrityError as error:
            raise Conflict(f"somebody else mapped host {host}, or cell {cell.name} is gone") from error
        marked = self._mark_nodes(cell, host)
        return Healed(
            f"mapped host {host} to cell {cell.name or cell.uuid}",
            before={"cell": None},
            after={"cell": cell.uuid, "compute_nodes_marked": marked},
            undo=f"nova-manage cell_v2 delete_host --cell_uuid {cell.uuid} --host {shlex.quote(host)}",
        )

    def _mark(self, finding: Finding) -> Healed:
        cell, nodes = self._cell(finding), finding.evidence["nodes"]
        count = self._databases.database(cell).run(lambda connection: queries.mark_mapped(connection, nodes))
        ids = ", ".join(str(node) for node in nodes)
        return Healed(
            f"marked {count} compute nodes of host {finding.evidence['host']} as mapped",
            before={"nodes": nodes, "mapped": 0},
            after={"nodes": nodes, "mapped": 1},
            undo=f"UPDATE compute_nodes SET mapped = 0 WHERE id IN ({ids})  -- in the database of {cell.label}",
        )

    def _mark_nodes(self, cell: Cell, host: str) -> int:
        """Mark what can be marked; the mapping stands, so a failure here is not a failure."""

        def mark(connection: Connection) -> int:
            nodes = [node.id for node in queries.compute_nodes(connection, {"host": host})]
            return queries.mark_mapped(connection, nodes)

        try:
            return self._databases.database(cell).run(mark)
        except Unavailable:
            return 0

    def _cell(self, finding: Finding) -> Cell:
        for cell in self._databases.host_cells():
            if cell.uuid == finding.evidence["cell"]:
                return cell
        raise Conflict(f"the cell {finding.evidence['cell']} is gone")

    def _presences(self, host: str) -> list[Presence]:
        found = self._databases.run_in_all(self._databases.host_cells(), lambda connection: _presence(connection, host))
        return [Presence(cell, *seen) for cell, seen in found.items() if seen is not None]

    def _look_longer(self, host: str) -> list[Presence]:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda found: not found),
            wait=tenacity.wait_fixed(0.3),
            stop=tenacity.stop_after_delay(1),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
        )
        return retrying(self._presences, host)


def _presence(connection: Connection, host: str) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    services = queries.compute_services(connection, host)
    nodes = queries.compute_nodes(connection, {"host": host})
    if not services and not nodes:
        return None
    name = services[0].host if services else nodes[0].host
    return name, tuple(node.id for node in nodes), tuple(node.id for node in nodes if not node.mapped)


def _hosts(connection: Connection) -> set[str]:
    services = {service.host for service in queries.compute_services(connection)}
    return services | {node.host for node in queries.compute_nodes(connection)}
