"""Frees ports in Neutron that deleted instances still occupy.

**What drifts.** A port says that an instance uses it (``device_id``) which has been deleted. Its owner cannot attach it to
another instance nor delete its network, its address and quota are taken, and the host's agent keeps it wired.

**Why Nova lets it.** Nova changes ports one by one, in another service. A port that was there before the instance is to be
unbound; when that fails, it is logged and the deletion goes on (``_unbind_ports``). What a build that failed half way, or
that was deleted while it ran, made in Neutron is removed in the same manner. Nobody looks again.

**What is read.** The ports of one instance; *then* build request and mapping, the instance's row in every cell, cell0
included, and only when nobody knows it, the shadow tables. When one cell does not answer there is no verdict at all. An
instance is gone when all its rows are deleted, one of them a visible one, or when it is archived; a minute ago at least, by
the database's clock, because what Nova began before may still be cleaning up. ``soft-delete``, from which an instance can
return, is no deletion. Then the network cache that Nova kept of the instance tells where a port came from:

==============================================  ======================================================================
what the cache says                             what happens to the port
==============================================  ======================================================================
it was there before (``preserve_on_delete``)    unbound
nothing at all, and the instance once ran       unbound: Nova empties the cache after it has deleted all that it made
Nova made it                                    deleted if ``[audit] audit_ports_delete`` is set; otherwise reported
anything else                                   reported
==============================================  ======================================================================

**What is changed.** One port at a time, at the revision of the evidence (``If-Match``). Unbinding clears what Nova would:
``device_id``, ``device_owner``, ``binding:host_id``, what is the host's in ``binding:profile``, and ``dns_name`` unless the
network's domain has records elsewhere, which are the user's. The port itself, its addresses and its name stay.

**Why this cannot take a used port.** The port is read first, at revision r; the databases after it; the write says r.
Whoever gives the port to another instance changes the revision, and ours fails. An instance that is deleted never comes
back under its uuid. A replica of the database that lags is caught by looking twice, five seconds apart.

**What is not changed.** Ports of other owners (routers, DHCP, load balancers, trunks). Ports with a device of Cyborg's, which
has to be released first. Ports of instances of which no cell has a trace: another Nova may share this Neutron; they are
reported when somebody asks for one, and no sweep lists them.

**Undo.** Of an unbound port the exact ``openstack port set``. A deleted port cannot come back; one like it can be made.

Sources: ``nova/network/neutron.py`` (deallocate_for_instance, _unbind_ports, _delete_ports), ``nova/compute/manager.py``
(_shutdown_instance), ``nova/compute/api.py`` (_local_delete).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.access import cloud_options
from handlers.access.neutron import HOST, PROFILE, Network, Port
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
    Unavailable,
)
from handlers.nova import keys, options, queries
from handlers.nova.archived_consumers import Archive
from handlers.nova.base import NovaHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances
from handlers.nova.ports import queries as port_queries
from handlers.nova.ports.queries import Left
from handlers.nova.records import Instance, InstanceMapping

#: seconds from the end of a deletion to the first look: usually the last there is to do
_ENDED = 2.0
#: seconds from its beginning: see :mod:`handlers.nova.allocations.audit_allocations`
_DELETING = 30.0
#: seconds after a deletion during which a build that it interrupted may still be cleaning up
SETTLE = 60.0
#: ports of instances; what follows is the availability zone
_OWNER = "compute:"
#: what of a binding profile is the host's, or this instance's; the rest is the user's
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
        help="Delete the ports that Nova made for an instance which has been deleted, too; there is no way back. If not "
        "set, they are reported.",
    ),
]


class AuditPorts(NovaHandler):
    """See the module.

    :param delete: delete what Nova made
    """

    name = "audit_ports"
    title = "Free the ports in Neutron that deleted instances still occupy"
    kinds = ("instance",)
    healable_problems = frozenset({"port-of-deleted-instance"})
    triggers = (
        Trigger("instance.delete.end", keys.instance, after=_ENDED),
        Trigger("instance.delete.start", keys.instance, after=_DELETING),
    )
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("network", "nova_api")
    cost = (
        "One request to Neutron per thousand ports, three queries per five hundred instances in every cell, and for "
        "instances that no cell knows one scan of the shadow tables per sweep; an hour is fine."
    )
    roles = Roles((PORTS,), (PROFILES,))

    def __init__(self, databases: NovaDatabases, network: Network, delete: bool = False) -> None:
        self._databases = databases
        self._network = network
        self._archive = Archive(databases)
        self._delete = delete

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Where Nova's databases and Neutron are, and what may be deleted."""
        return {
            options.GROUP: options.OPTIONS,
            cloud_options.GROUP: cloud_options.OPTIONS,
            options.AUDIT: OPTIONS,
        }

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases and session."""
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Network.from_resources),
            resources.conf[options.AUDIT].audit_ports_delete,
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge the ports that say they are an instance's; see the evidence."""
        return [self._finding(key, port, left) for port, left in self._judge(key.id)]

    def sweep(self) -> Iterator[Key]:
        """Yield whoever is said to use a port, and is deleted in some cell or archived, and nowhere alive."""
        down: Unavailable | None = None
        seen: set[str] = set()
        batch: set[str] = set()
        for port in self._network.ports({}, fields=("device_id", "device_owner")):
            if not port.owner.startswith(_OWNER) or not port.device or port.device in seen:
                continue
            seen.add(port.device)
            batch.add(port.device)
            if len(batch) >= queries.CHUNK:
                suspects, silent = self._suspects(batch)
                yield from suspects
                batch, down = set(), silent or down
        suspects, silent = self._suspects(batch)
        yield from suspects
        down = silent or down
        if down is not None:
            raise down

    def population(self) -> int:
        """How many live instances there are in the cells that answer."""
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then unbind or delete the port at the revision of the evidence."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        for port, left in self._judge(finding.key.id):
            now = self._finding(finding.key, port, left)
            if (now.problem, now.evidence, now.healable) == (finding.problem, finding.evidence, True):
                return self._remove(port) if made_by_nova(left, port.id) else self._unbind(port)
        raise Conflict(f"port {finding.evidence['port']} is not as it was")

    def _judge(self, instance: str) -> list[tuple[Port, Left | None]]:
        """Return an instance's ports when it is gone, with what it left; nothing of it when nobody ever knew it.

        :raises InFlight: when it went only just now
        """
        ports = [port for port in self._network.ports({"device_id": instance}) if port.owner.startswith(_OWNER)]
        if not ports:
            return []
        building, mapping = self._databases.api.run(lambda connection: _scheduling(connection, instance))
        if building or (mapping is not None and mapping.cell_id is None):
            return []
        cells = self._databases.cells()
        seen = self._databases.run_in_all(cells, lambda connection: queries.instance(connection, instance))
        rows = [row for row in seen.values() if row is not None]
        if any(not row.deleted for row in rows):
            return []
        if not _gone(rows) and instance not in (set() if rows else self._archive.among({instance})):
            return [(port, None) for port in ports]
        age = min((row.age for row in rows), default=SETTLE)
        if age < SETTLE:
            raise InFlight("the instance was deleted only just now", SETTLE - age)
        found = self._databases.run_in_all(cells, lambda connection: port_queries.left(connection, instance))
        lefts = [left for left in found.values() if left is not None]
        left = lefts[0] if len(lefts) == 1 else Left(launched=False, network_info=None)
        return [(port, left) for port in ports]

    def _finding(self, key: Key, port: Port, left: Left | None) -> Finding:
        made = made_by_nova(left, port.id)
        evidence = {
            "port": port.id,
            "revision": port.revision,
            "device_owner": port.owner,
            "host": port.host,
            "network": port.shown.get("network_id"),
            "known": left is not None,
            "made_by_nova": made,
        }
        refusal = self._refusal(port, left, made)
        if left is None:
            text = f"port {port.id} is said to be that of instance {key.id}, of which no cell has a row that counts"
            return Finding(key, "port-of-unknown-instance", text, evidence, False, refusal)
        text = f"port {port.id} is still that of instance {key.id}, which has been deleted"
        return Finding(key, "port-of-deleted-instance", text, evidence, not refusal, refusal)

    def _refusal(self, port: Port, left: Left | None, made: bool | None) -> str:
        """Return why a port may not be freed; empty when it may."""
        if left is None:
            return "another Nova may have it, or it was purged; see who made the port: openstack port show"
        if port.profile.get("arq_uuid"):
            return "it has a device of Cyborg's, which has to be released first: openstack accelerator arq delete"
        if made and not self._delete:
            return "Nova made it, so it is to be deleted: set [audit] audit_ports_delete, or openstack port delete"
        if made is None:
            return (
                "nothing tells whether Nova made it, to be deleted with openstack port delete, or the user, to be unbound "
                "with openstack port unset --device --device-owner --host"
            )
        return ""

    def _unbind(self, port: Port) -> Healed:
        changes: dict[str, Any] = {"device_id": "", "device_owner": "", HOST: None}
        profile = {name: value for name, value in port.profile.items() if name not in _OF_HOST}
        if profile != port.profile:
            changes[PROFILE] = profile
        if port.shown.get("dns_name") and not self._network.dns_domain(port.shown["network_id"]):
            changes["dns_name"] = ""
        now = self._network.update(port, changes)
        return Healed(
            f"unbound port {port.id} from the deleted instance {port.device}",
            before={name: port.shown.get(name) for name in changes},
            after={name: now.shown.get(name) for name in changes},
            undo=_rebind(port, changes),
        )

    def _remove(self, port: Port) -> Healed:
        self._network.delete(port)
        names = ("network_id", "project_id", "name", "mac_address", "fixed_ips", "security_groups", "binding:vnic_type")
        return Healed(
            f"deleted port {port.id}, which Nova had made for the deleted instance {port.device}",
            before={name: port.shown[name] for name in names if name in port.shown},
            undo=f"none: it is gone; one like it: {_remake(port)}",
        )

    def _suspects(self, batch: set[str]) -> tuple[list[Key], Unavailable | None]:
        """Return the keys of those that are dead somewhere and alive nowhere, and why a cell does not answer."""
        batch = batch - self._databases.api.run(lambda connection: queries.building(connection, batch))
        cells = self._databases.cells()
        seen, down = self._databases.run_in_available(cells, lambda one: port_queries.alive(one, batch))
        alive = {uuid for rows in seen.values() for uuid, lives in rows.items() if lives}
        dead = {uuid for rows in seen.values() for uuid, lives in rows.items() if not lives} - alive
        if down is None:
            dead |= self._archive.among(batch - alive - dead)
        return [Key("instance", uuid) for uuid in sorted(dead)], down


def made_by_nova(left: Left | None, port: str) -> bool | None:
    """Return whether Nova made a port for an instance, or None when what is left does not tell."""
    if left is None:
        return None
    try:
        entries = json.loads(left.network_info or "")
        found = [entry.get("preserve_on_delete") for entry in entries if entry["id"] == port]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    if found:
        return None if found[0] is None else not found[0]
    return False if entries == [] and left.launched else None


def _gone(rows: Iterable[Instance]) -> bool:
    """Whether a row that counts says that the instance is deleted; a hidden one is the copy of a cross-cell resize."""
    return any(row.deleted and not row.hidden for row in rows)


def _scheduling(connection: Connection, instance: str) -> tuple[bool, InstanceMapping | None]:
    mapping = queries.instance_mapping(connection, instance)
    return queries.has_build_request(connection, instance), mapping


def _rebind(port: Port, changes: Mapping[str, Any]) -> str:
    words = ["openstack", "port", "set", "--device", port.device, "--device-owner", port.owner, "--host", port.host]
    if PROFILE in changes:
        words += ["--binding-profile", json.dumps(port.profile, sort_keys=True)]
    if "dns_name" in changes:
        words += ["--dns-name", port.shown["dns_name"]]
    return shlex.join([*words, port.id])


def _remake(port: Port) -> str:
    words = ["openstack", "port", "create", "--network", str(port.shown.get("network_id"))]
    words += ["--mac-address", str(port.shown.get("mac_address"))]
    for address in port.shown.get("fixed_ips") or ():
        words += ["--fixed-ip", f"subnet={address.get('subnet_id')},ip-address={address.get('ip_address')}"]
    return shlex.join([*words, port.shown.get("name") or "port"])
