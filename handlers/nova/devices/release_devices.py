"""Release one-time-use PCI devices after their instance is deleted and the operator's hook has cleaned them.

**What drifts.** Nova reserves a device with ``one_time_use`` when an instance gets the device, and never ends the reservation.
After the deletion of the instance, no other instance can use the device.

**Why Nova lets it.** Nova does not clean devices. It asks operators for a program that listens to ``instance.delete.end``,
cleans the device, and sets ``reserved`` to 0.

**What is read.** The PCI requests of the deleted instance, which name the device's resource provider. This provider's trait,
inventory and allocations. The live compute node that is the provider's root, its service, and the device in ``pci_devices``.
The instance's build request and mapping, and its row in every cell.

**What is changed.** First, stackmend runs ``[audit] release_devices_hook``. If the hook ends with status 0, stackmend reads all
facts again. Then ``PUT /resource_providers/{uuid}/inventories/{class}`` sets ``reserved`` to 0, with the provider's generation.

**The hook.** Its arguments are ``ADDRESS PROVIDER HOST``: for example ``0000:81:00.0``, a uuid and a host name. The environment
has ``STACKMEND_ADDRESS``, ``STACKMEND_PROVIDER``, ``STACKMEND_HOST``, ``STACKMEND_NODE``, ``STACKMEND_CELL``,
``STACKMEND_INSTANCE``, ``STACKMEND_RESOURCE_CLASS``, ``STACKMEND_VENDOR_ID`` and ``STACKMEND_PRODUCT_ID``, but no password and
no token. No shell runs the hook. It runs beside stackmend, so it must reach the host, for example by ``ssh``.

If the hook fails or takes longer than ``release_devices_hook_timeout``, the device stays reserved. The history then has the end
of its output. After ``[engine] max_attempts`` failures in a row, stackmend parks the key, until ``stackmend work retry``.

The hook must be idempotent: after a crash between hook and write, stackmend runs it again. Two runs for one device can overlap
if the journal did not answer meanwhile. So let the hook take a lock on the host, for example with ``flock``. The hook must
fail if the lock is taken, or if a guest has the device.

**What is not changed.** A device with an allocation, or one that ``pci_devices`` does not call ``available``. If no deleted
instance explains a reservation, the device is only reported: an operator may have reserved it. This concerns devices that a
shelved or moved instance used and, without ``[filter_scheduler] pci_in_placement`` in ``nova.conf``, all devices. If the host's
nova-compute is down, or stackmend has no hook, the finding has the command.

**Why a race does no harm.** Placement allocates no reserved device. Each change of the provider changes its generation, so the
write fails. To keep a device of a deleted instance reserved for repairs, exempt its host or the instance.

**Undo.** The reservation, set again by ``openstack resource provider inventory set``.

Sources: ``nova/compute/pci_placement_translator.py`` (_handle_one_time_use), ``nova/compute/utils.py``
(update_pci_request_with_placement_allocations), ``nova/compute/manager.py`` (_complete_deletion), the specification
``one-time-use-devices`` of Nova 2025.2.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from oslo_config import cfg

from handlers.access import cloud_options
from handlers.access.roles import PLACEMENT
from handlers.base import Finding, Healed, Key, Mode, Resources, Roles, Trigger
from handlers.nova import concerns, keys, options
from handlers.nova.base import NovaHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.devices import facts
from handlers.nova.devices.hook import Hook
from handlers.nova.devices.rules import Case, Place, Problem, Release, User, decide, left
from handlers.nova.nodes import OwnPlacement, live_instances, live_nodes
from handlers.nova.placement import Inventory, Placement, reserving
from handlers.nova.verdicts import DELETED_SETTLE, Keep, Report, Wait, findings_or_wait

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "release_devices_hook",
        help="Absolute path of the program that cleans a one-time-use PCI device before release_devices releases the device. "
        "Without it, release_devices only reports. The handler's page describes arguments and environment.",
    ),
    cfg.IntOpt(
        "release_devices_hook_timeout",
        default=600,
        min=1,
        max=3000,
        help="Seconds after which release_devices kills its hook.",
    ),
]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The proof about one device.

    :param instance: the deleted instance that used the device last
    """

    provider: str
    name: str
    resource: str
    values: Mapping[str, float]
    generation: int
    cell: str
    host: str
    node: str
    address: str
    vendor: str
    product: str
    instance: str | None
    host_up: bool | None


class ReleaseDevices(NovaHandler):
    name = "release_devices"
    title = "Release one-time-use PCI devices of deleted instances after a hook has cleaned them"
    kinds = ("instance", "provider")
    healable_problems = frozenset({Problem.LEFT})
    concerned_kinds = concerns.KINDS
    triggers = (Trigger("instance.delete.end", keys.instance, after=DELETED_SETTLE),)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One request to Placement, and one more for each one-time-use device; for reserved devices one query per cell. An hour "
        "is fine."
    )
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement, hook: Hook | None) -> None:
        self._databases = databases
        self._placement = placement
        self._own = OwnPlacement(databases, placement)
        self._hook = hook

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {
            options.GROUP: options.OPTIONS,
            cloud_options.GROUP: cloud_options.OPTIONS,
            options.AUDIT: OPTIONS,
        }

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        conf = resources.conf[options.AUDIT]
        hook = None
        if conf.release_devices_hook:
            hook = Hook(conf.release_devices_hook, conf.release_devices_hook_timeout)
            hook.require()
        return cls(resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources), hook)

    def inspect(self, key: Key) -> Iterable[Finding]:
        providers = facts.named_by(self._databases, key.id) if key.kind == "instance" else {key.id}
        findings: list[Finding] = []
        waits: list[Wait] = []
        for case in facts.read(self._databases, self._placement, providers, self._hook is not None):
            if _key_of(case) != key:
                continue
            match decide(case):
                case Wait() as wait:
                    waits.append(wait)
                case Report() | Release() as verdict:
                    findings += self._findings(key, case, verdict)
                case Keep():
                    pass
        return findings_or_wait(findings, waits)

    def sweep(self) -> Iterator[Key]:
        nodes, down = live_nodes(self._databases)
        reserved = [one for one in facts.reserved(self._placement) if one.root in nodes]
        hosts = {nodes[one.root][1].host for one in reserved}
        cells = {nodes[one.root][0] for one in reserved}
        uuids = {one.uuid for one in reserved}
        found, silent = self._databases.run_in_available(cells, lambda it: facts.users_of(it, hosts, uuids))
        users = [user for some in found.values() for user in some]
        judged = {_key(one.uuid, [user for user in users if one.uuid in user.providers]) for one in reserved}
        yield from sorted(judged)
        down = silent or down
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        self._own.require()
        proved = Evidence(**self.prove_again(finding).evidence)
        if self._hook is not None:
            self._hook.run(_arguments(proved), _variables(proved))
        # The hook may have run for minutes.
        evidence = Evidence(**self.prove_again(finding).evidence)
        before = Inventory(evidence.provider, evidence.resource, evidence.values, evidence.generation)
        self._placement.reserve(before, 0)
        return Healed(
            f"released the device {evidence.address} of host {evidence.host}",
            before={"provider": before.provider, before.resource: {"reserved": before.reserved}},
            after={"provider": before.provider, before.resource: {"reserved": 0}},
            undo=finding.undo,
        )

    def _findings(self, key: Key, case: Case, verdict: Report | Release) -> Iterator[Finding]:
        place, before = case.place, case.inventory
        if place is None or before is None:
            return
        evidence = _evidence(case, place, before)
        concerned = concerns.named("provider", before.provider) | concerns.of_cell(place.cell)
        concerned |= concerns.named("host", place.node.host, place.node.node)
        if case.last is not None:
            concerned |= concerns.of_instance(case.last.row)
        if isinstance(verdict, Report):
            known, refusal = asdict(evidence), verdict.refusal
            yield Finding(key, verdict.problem, verdict.summary, known, False, refusal, concerns=concerned)
        else:
            plan, undo = f"{self._planned(evidence)}\n{reserving(before, 0)}", before.command(before.reserved)
            yield Finding(key, Problem.LEFT, left(case), asdict(evidence), undo=undo, plan=plan, concerns=concerned)

    def _planned(self, evidence: Evidence) -> str:
        program = "" if self._hook is None else self._hook.program
        return f"hook: {shlex.join([program, *_arguments(evidence)])}"


def _key_of(case: Case) -> Key:
    return _key(case.provider.uuid, () if case.place is None else case.place.users)


def _key(provider: str, users: Sequence[User]) -> Key:
    """Return the only key under which stackmend judges a device, so that two workers never run the hook for it at once.

    :param users: the instances whose PCI requests name the device, the youngest deletion first
    """
    last = next((user.row.uuid for user in users if user.row.deleted), None)
    alive = any(not user.row.deleted for user in users)
    return Key("provider", provider) if alive or last is None else Key("instance", last)


def _evidence(case: Case, place: Place, inventory: Inventory) -> Evidence:
    device = place.device
    return Evidence(
        inventory.provider,
        case.provider.name,
        inventory.resource,
        dict(inventory.values),
        inventory.generation,
        place.cell.label,
        place.node.host,
        place.node.node,
        "" if device is None else device.address,
        "" if device is None else device.vendor,
        "" if device is None else device.product,
        None if case.last is None else case.last.row.uuid,
        place.up,
    )


def _arguments(evidence: Evidence) -> list[str]:
    return [evidence.address, evidence.provider, evidence.host]


def _variables(evidence: Evidence) -> dict[str, str]:
    values = {
        "ADDRESS": evidence.address,
        "PROVIDER": evidence.provider,
        "HOST": evidence.host,
        "NODE": evidence.node,
        "CELL": evidence.cell,
        "INSTANCE": evidence.instance or "",
        "RESOURCE_CLASS": evidence.resource,
        "VENDOR_ID": evidence.vendor,
        "PRODUCT_ID": evidence.product,
    }
    return {f"STACKMEND_{name}": value for name, value in values.items()}
