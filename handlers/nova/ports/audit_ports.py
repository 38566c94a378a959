"""Frees ports in Neutron that deleted instances still occupy.

**What drifts.** A port names a deleted instance (``device_id``). The port's owner cannot attach it elsewhere or delete the
network. Address and quota stay in use.

**Why Nova lets it.** When Nova cannot unbind a user's port (``_unbind_ports``), it logs the error and deletes the instance.

**What is read.** The instance's ports. Its build request and mapping, and its row in every cell or in the shadow tables. If one
cell does not answer, the handler decides nothing. An instance is gone if it is archived, or if all its rows have been deleted
for a minute and Nova does not hide all of them. Then the instance's network cache decides:

=================================================  ===================================================================
network cache                                      fate of the port
=================================================  ===================================================================
a user made the port (``preserve_on_delete``)      unbound
empty, and the instance once ran                   unbound: Nova empties the cache after it has deleted its own ports
Nova made the port                                 deleted if ``[audit] audit_ports_delete`` is set; otherwise reported
anything else                                      reported
=================================================  ===================================================================

**What is changed.** One port, if its revision is unchanged (``If-Match``). Unbinding clears the same fields as Nova:
``device_id``, ``device_owner``, ``binding:host_id``, the host's part of ``binding:profile``, and ``dns_name`` unless the
network has a ``dns_domain``.

**What is not changed.** Ports that other services own. Ports with a device of Cyborg are only reported. So are ports of an
instance that no cell knows: another Nova may have the instance. The same holds if the mapping lacks ``queued_for_delete`` and
names a cell without a row of the instance: that cell may have been restored.

**Why a race does no harm.** The handler reads the port before the databases; the write fails if the port changed since. The
uuid of a deleted instance never returns. Two inspections must agree, because a database server can answer with old rows.

**Undo.** ``openstack port set`` for an unbound port. A deleted port cannot return; the undo names the command for a similar
port.

Sources: ``nova/network/neutron.py`` (deallocate_for_instance, _unbind_ports, _delete_ports), ``nova/compute/manager.py``
(_shutdown_instance), ``nova/compute/api.py`` (_local_delete).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from oslo_config import cfg

from handlers.access.neutron import HOST, INSTANCES, PROFILE, Network, Port, changing, deleting
from handlers.access.roles import PORTS, PROFILES
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    InFlight,
    Key,
    Mode,
    Refused,
    Resources,
    Roles,
    Trigger,
)
from handlers.nova import concerns, keys, options, queries
from handlers.nova.archived_consumers import Archive
from handlers.nova.base import NovaHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.lifeless import lifeless
from handlers.nova.nodes import live_instances
from handlers.nova.ports import rules
from handlers.nova.ports.queries import remains_of
from handlers.nova.ports.rules import SETTLE, Case, Facts, Fate, Remains, State

#: seconds from the end of a deletion to the first inspection: by then Nova is usually done
_ENDED = 2.0
#: seconds from the beginning of a deletion, as in :mod:`handlers.nova.allocations.audit_allocations`
_DELETING = 30.0
#: the fields of a binding profile that belong to the host or to the instance; the others are the user's
_OF_HOST = frozenset(
    {
        "allocation",
        "arq_uuid",
        "card_serial_number",
        "device_mac_address",
        "pci_slot",
        "pci_vendor_info",
        "pf_mac_address",
        "physical_network",
        "vf_num",
    }
)

OPTIONS: list[cfg.Opt] = [
    cfg.BoolOpt(
        "audit_ports_delete",
        default=False,
        help="Also delete the ports that Nova made for a deleted instance; a deleted port cannot return. Unset: they are "
        "reported.",
    ),
]


class Problem(StrEnum):
    DELETED = "port-of-deleted-instance"
    UNKNOWN = "port-of-unknown-instance"


@dataclass(frozen=True, slots=True)
class Evidence:
    port: str
    revision: int | None
    device_owner: str
    host: str
    network: str | None
    known: bool
    made_by_nova: bool | None
    fate: Fate

    @classmethod
    def of(cls, finding: Finding) -> Self:
        return cls(**{**finding.evidence, "fate": Fate(finding.evidence["fate"])})


class AuditPorts(NovaHandler):
    name = "audit_ports"
    title = "Free the ports in Neutron that deleted instances still occupy"
    kinds = ("instance",)
    healable_problems = frozenset({Problem.DELETED})
    triggers = (
        Trigger("instance.delete.end", keys.instance, after=_ENDED),
        Trigger("instance.delete.start", keys.instance, after=_DELETING),
    )
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("network", "nova_api")
    cost = (
        "One request to Neutron per thousand ports, and three queries per five hundred instances in every cell. If no cell "
        "knows some of them, one scan of the shadow tables. An hour is fine."
    )
    roles = Roles((PORTS,), (PROFILES,))

    def __init__(self, databases: NovaDatabases, network: Network, delete: bool = False) -> None:
        self._databases = databases
        self._network = network
        self._archive = Archive(databases)
        self._delete = delete

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {**super().options(), options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Network.from_resources),
            resources.conf[options.AUDIT].audit_ports_delete,
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        ports = [port for port in self._network.ports({"device_id": key.id}) if port.owner.startswith(INSTANCES)]
        if not ports:
            return []
        facts, remains, names = self._facts(key.id)
        match rules.state(facts):
            case State.ALIVE:
                return []
            case State.UNKNOWN:
                return [self._finding(key, port, facts, None, names) for port in ports]
            case State.JUST_DELETED:
                raise InFlight("the instance was deleted a moment ago", SETTLE - facts.age)
            case State.GONE:
                return [self._finding(key, port, facts, remains, names) for port in ports]

    def sweep(self) -> Iterator[Key]:
        ports = self._network.ports({}, fields=("device_id", "device_owner"))
        instances = (port.device for port in ports if port.owner.startswith(INSTANCES) and port.device)
        yield from lifeless(self._databases, self._archive, instances)

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        evidence = Evidence.of(self.prove_again(finding))
        port = self._network.port(evidence.port)
        if port is None or port.revision != evidence.revision:
            raise Conflict(f"port {evidence.port} has changed")
        match evidence.fate:
            case Fate.UNBIND:
                return self._unbind(port)
            case Fate.DELETE:
                return self._remove(port)
            case Fate.REPORT:
                raise Refused(finding.refusal)

    def _facts(self, instance: str) -> tuple[Facts, Remains | None, frozenset[str]]:
        building, mapping = self._databases.api.run(lambda connection: queries.scheduling(connection, instance))
        building = building or (mapping is not None and mapping.cell_id is None)
        cells = self._databases.cells()
        seen = self._databases.run_in_all(cells, lambda connection: queries.instance(connection, instance))
        rows = {cell: row for cell, row in seen.items() if row is not None}
        archived = {} if building or rows else self._archive.among({instance})
        elsewhere = mapping is not None and not mapping.queued and mapping.cell_id not in {cell.id for cell in rows}
        facts = Facts(building, tuple(rows.values()), bool(archived), elsewhere)
        names = concerns.of_consumers(instance).union(
            *archived.values(), *(concerns.of_instance(row) | concerns.of_cell(cell) for cell, row in rows.items())
        )
        if rules.state(facts) is not State.GONE:
            return facts, None, names
        places = list(rows) or cells
        found = self._databases.run_in_all(places, lambda connection: remains_of(connection, instance))
        known = [remains for remains in found.values() if remains is not None]
        return facts, known[0] if len(known) == 1 else None, names

    def _finding(self, key: Key, port: Port, facts: Facts, remains: Remains | None, names: frozenset[str]) -> Finding:
        known = facts.deleted
        made = rules.made_by_nova(remains, port.id)
        device = port.profile.get("arq_uuid")
        fate, refusal = rules.fate(Case(known, made, bool(device), self._delete, facts.mapped_elsewhere))
        refusal = refusal.format(port=port.id, device=device)
        evidence = asdict(
            Evidence(port.id, port.revision, port.owner, port.host, port.shown.get("network_id"), known, made, fate)
        )
        if not known:
            summary = f"port {port.id} names instance {key.id}, which no cell has a record of"
            return Finding(key, Problem.UNKNOWN, summary, evidence, False, refusal, concerns=names)
        summary = f"port {port.id} still names instance {key.id}, which is deleted"
        undo = {Fate.UNBIND: _rebind, Fate.DELETE: _remake, Fate.REPORT: _no_undo}[fate](port)
        return Finding(
            key,
            Problem.DELETED,
            summary,
            evidence,
            not refusal,
            refusal,
            undo=undo,
            plan=self._plan(port, fate),
            concerns=names
            | concerns.named("host", port.host)
            | concerns.named("project", port.shown.get("project_id")),
        )

    def _plan(self, port: Port, fate: Fate) -> str:
        match fate:
            case Fate.UNBIND:
                return str(changing(port, self._changes(port)))
            case Fate.DELETE:
                return str(deleting(port))
            case Fate.REPORT:
                return ""

    def _changes(self, port: Port) -> dict[str, Any]:
        changes: dict[str, Any] = {"device_id": "", "device_owner": "", HOST: None}
        profile = {name: value for name, value in port.profile.items() if name not in _OF_HOST}
        if profile != port.profile:
            changes[PROFILE] = profile
        if port.shown.get("dns_name") and not self._network.dns_domain(port.shown["network_id"]):
            changes["dns_name"] = ""
        return changes

    def _unbind(self, port: Port) -> Healed:
        changes = self._changes(port)
        now = self._network.update(port, changes)
        return Healed(
            f"unbound port {port.id} from the deleted instance {port.device}",
            before={name: port.shown.get(name) for name in changes},
            after={name: now.shown.get(name) for name in changes},
            undo=_rebind(port),
        )

    def _remove(self, port: Port) -> Healed:
        self._network.delete(port)
        names = ("network_id", "project_id", "name", "mac_address", "fixed_ips", "security_groups", "binding:vnic_type")
        return Healed(
            f"deleted port {port.id}, which Nova had made for the deleted instance {port.device}",
            before={name: port.shown[name] for name in names if name in port.shown},
            undo=_remake(port),
        )


def _no_undo(port: Port) -> str:
    return ""


def _rebind(port: Port) -> str:
    words = ["openstack", "port", "set", "--device", port.device, "--device-owner", port.owner, "--host", port.host]
    if _OF_HOST & port.profile.keys():
        words += ["--binding-profile", json.dumps(port.profile, sort_keys=True)]
    if port.shown.get("dns_name"):
        words += ["--dns-name", port.shown["dns_name"]]
    return shlex.join([*words, port.id])


def _remake(port: Port) -> str:
    words = ["openstack", "port", "create", "--network", str(port.shown.get("network_id"))]
    words += ["--mac-address", str(port.shown.get("mac_address"))]
    for address in port.shown.get("fixed_ips") or ():
        words += ["--fixed-ip", f"subnet={address.get('subnet_id')},ip-address={address.get('ip_address')}"]
    return f"none: the port cannot return. One like it: {shlex.join([*words, port.shown.get('name') or 'port'])}"
