"""Delete inactive port bindings that live migrations left behind.

**What drifts.** A port of an instance has a second binding, ``INACTIVE``, to a host that the instance left or never reached.
Nova cannot live-migrate the instance to that host: Neutron refuses another binding to the host with 409.

**Why Nova lets it.** Nova deletes the binding in the last step of a live migration or of its roll-back. If a service stops or
Neutron does not answer, the binding stays.

**What is read.** The instance's ports and their bindings. The instance's build request and mapping, its row in every cell, and
its migrations.

**What is changed.** One binding: ``DELETE /v2.0/ports/{id}/bindings/{host}``. Neutron has no condition for this request, so the
handler compares the port's revision right before. If the port has no active binding afterwards, the handler creates the deleted
binding again.

**What is not changed.** Bindings of an instance with a task, an unfinished migration or a resize that waits for the user. The
handler only reports a binding that no ended live migration explains, and any inactive binding while the instance's youngest
migration is in ``error``. It also only reports an active binding to a host other than the instance's in Nova: either
record may be right.

**Why a race does no harm.** While the instance has no task, Nova does not use the binding. A migration that begins meanwhile
activates its binding seconds later.

**Undo.** None is needed: Nova creates a binding for each live migration.

Sources: ``nova/network/neutron.py`` (bind_ports_to_host, setup_networks_on_host, migrate_instance_start),
``nova/compute/manager.py`` (_post_live_migration, _rollback_live_migration), ``neutron/plugins/ml2/plugin.py``
(create_port_binding, delete_port_binding).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Self

from handlers.access.neutron import HOST, INSTANCES, Binding, Network, Port, deleting_binding
from handlers.access.roles import BINDINGS, PORTS
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    Incomplete,
    Key,
    Mode,
    Resources,
    Roles,
    Trigger,
    Unavailable,
    keys_of,
)
from handlers.nova import concerns, keys, queries
from handlers.nova.base import NovaHandler
from handlers.nova.bindings import facts
from handlers.nova.bindings.queries import hosts_at_rest, moving
from handlers.nova.bindings.rules import Bound, Delete, Facts, Problem, completed_there, decide, state
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances
from handlers.nova.verdicts import MOVED_SETTLE, Keep, Report, Wait, soonest

#: seconds from the end of a live migration to the first inspection: Nova deletes the binding after the notification
_SETTLED = MOVED_SETTLE + 5.0
_HINTS = (
    "instance.live_migration_post.end",
    "instance.live_migration_post_dest.end",
    "instance.live_migration_rollback.end",
    "instance.live_migration_rollback_dest.end",
    "instance.live_migration_abort.end",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The proof about one binding of a port.

    :param migration: the instance's youngest migration
    """

    port: str
    revision: int | None
    host: str
    status: str
    active: str
    instance: str
    instance_host: str | None
    migration: str | None
    migration_status: str | None


class AuditBindings(NovaHandler):
    name = "audit_bindings"
    title = "Delete inactive bindings of ports that live migrations left"
    kinds = ("instance",)
    healable_problems = frozenset({Problem.INACTIVE})
    concerned_kinds = concerns.KINDS
    triggers = tuple(Trigger(event, keys.instance, after=_SETTLED) for event in _HINTS)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("network", "nova_api")
    relies_on = ("nova_api", "cell")
    cost = (
        "One request to Neutron per compute host and thousand ports, and one query per five hundred instances in every cell. "
        "An hour is fine."
    )
    roles = Roles((PORTS,), (BINDINGS,))

    def __init__(self, databases: NovaDatabases, network: Network) -> None:
        self._databases = databases
        self._network = network

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(NovaDatabases.from_resources), resources.get(Network.from_resources))

    def inspect(self, key: Key) -> Iterable[Finding]:
        ports = [port for port in self._network.ports({"device_id": key.id}) if port.owner.startswith(INSTANCES)]
        bindings = {port.id: self._network.bindings(port.id) for port in ports}
        if not any(bindings.values()):
            return []
        cell, known = facts.read(self._databases, key.id)
        match state(known):
            case Keep():
                return []
            case Wait() as wait:
                raise soonest([wait])
        if cell is None:
            return []
        judged = [(port, one, Bound(known, one.host, port.host)) for port in ports for one in bindings[port.id]]
        return [
            self._finding(key, port, one, bound, cell, verdict)
            for port, one, bound in judged
            if isinstance(verdict := decide(bound), Delete | Report)
        ]

    def sweep(self) -> Iterator[Key]:
        same = self._databases.host_names.same
        down: Incomplete | None = None
        bound: dict[str, set[str]] = {}
        inactive: set[str] = set()
        for host in sorted(self._databases.api.run(queries.mapped_hosts)):
            for port in self._network.ports({HOST: host}, fields=("device_id", "device_owner", HOST)):
                if not port.owner.startswith(INSTANCES) or not port.device:
                    continue
                if not same(port.host, host):
                    inactive.add(port.device)
                else:
                    bound.setdefault(port.device, set()).add(host)
            if len(bound) >= queries.CHUNK:
                elsewhere, silent = self._elsewhere(bound)
                yield from keys_of("instance", sorted(elsewhere))
                bound, down = {}, down if silent is None else Incomplete(silent, down)
        elsewhere, silent = self._elsewhere(bound)
        yield from keys_of("instance", sorted(elsewhere | inactive))
        down = down if silent is None else Incomplete(silent, down)
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        evidence = Evidence(**self.prove_again(finding).evidence)
        port = self._network.port(evidence.port)
        left = next((one for one in self._network.bindings(evidence.port) if one.host == evidence.host), None)
        if port is None or left is None or port.revision != evidence.revision or left.status != evidence.status:
            raise Conflict(f"port {evidence.port} has changed")
        self._network.delete_binding(port, left)
        return Healed(
            f"deleted the {left.status} binding of port {port.id} to {left.host}",
            before={"host": left.host, "vnic_type": left.vnic_type, "profile": dict(left.profile)},
            after={"host": None, "active": port.host},
            undo=finding.undo,
        )

    def _elsewhere(self, bound: Mapping[str, Collection[str]]) -> tuple[set[str], Unavailable | None]:
        same = self._databases.host_names.same
        found, down = self._databases.run_in_available(
            self._databases.host_cells(), lambda connection: hosts_at_rest(connection, bound)
        )
        rows = [(uuid, host) for hosts in found.values() for uuid, host in hosts.items()]
        return {uuid for uuid, host in rows if not all(same(host, other) for other in bound[uuid])}, down

    def _finding(
        self, key: Key, port: Port, binding: Binding, bound: Bound, cell: Cell, verdict: Delete | Report
    ) -> Finding:
        known, latest = bound.facts, bound.facts.latest
        evidence = Evidence(
            port.id,
            port.revision,
            binding.host,
            binding.status,
            port.host,
            key.id,
            known.host,
            None if latest is None else latest.uuid,
            None if latest is None else latest.status,
        )
        request = deleting_binding(port, binding)
        summary = f"port {port.id} of instance {key.id} has the binding {binding.status} to {binding.host}"
        concerned = concerns.named("host", binding.host, port.host) | concerns.of_cell(cell)
        if known.here is not None:
            concerned |= concerns.of_instance(known.here)
        if isinstance(verdict, Delete):
            undo = f"none: Nova creates the binding again when it migrates the instance to {binding.host}"
            text = f"{summary}, and lives on {known.host}"
            return Finding(
                key, Problem.INACTIVE, text, asdict(evidence), undo=undo, plan=str(request), concerns=concerned
            )
        refusal = verdict.refusal
        if verdict.problem == Problem.INACTIVE:
            refusal = f"{refusal} to Neutron: {request.method} {request.url}"
        elif completed_there(bound):
            refusal = f"{refusal} in the database of {cell.label}:\n{self._move(cell, key.id, known)}"
        text = f"{summary}, and {verdict.summary}"
        return Finding(key, verdict.problem, text, asdict(evidence), False, refusal, concerns=concerned)

    def _move(self, cell: Cell, instance: str, known: Facts) -> str:
        move, host = known.latest, known.host
        if move is None or host is None:
            return ""
        return self._databases.database(cell).typed(moving(instance, host, move))
