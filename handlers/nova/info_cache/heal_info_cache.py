"""Renew network caches of instances that differ from Neutron.

**What drifts.** Nova copies each port of an instance into a cache. The cache lacks a port, or has a wrong address. Then the API
and the metadata service show wrong addresses, and a reboot plugs wrong interfaces.

**Why Nova lets it.** Neutron reports a change with an event, which a stopped service or a broker can lose. Since Nova 2025.1,
no periodic task compares the cache with Neutron by default (``heal_instance_info_cache_interval = -1``).

**What is read.** The instance's ports. Its build request and mapping, and in every cell its row and its cache. If one cell does
not answer, the handler decides nothing.

**What is changed.** stackmend itself changes nothing. It sends Neutron's event ``network-changed`` with the port to
``/os-server-external-events``. Then nova-compute reads the port and writes the cache. If stackmend does not find the right
entry within ten seconds, the heal failed, and stackmend tries again.

**What is not changed.** In four cases, stackmend only reports. The event cannot repair an empty cache, or an entry for a port
that no longer names the instance. A new entry would break the instance's next start if Neutron could not bind the port, or if
the port's ``vnic_type`` changed.

**Why a race does no harm.** nova-compute locks the cache and copies Neutron's present state, not what stackmend read. Two
inspections must agree, because Nova writes the cache last when it attaches a port.

**Undo.** None is needed: the cache is a copy.

Sources: ``nova/network/neutron.py`` (_build_network_info_model), ``nova/compute/manager.py`` (external_instance_event,
_heal_instance_info_cache, _init_instance), ``nova/api/openstack/compute/server_external_events.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Self

import tenacity

from handlers.access.compute import Compute, changed_network
from handlers.access.neutron import HOST, INSTANCES, Network
from handlers.access.roles import EVENTS, PORTS
from handlers.base import Finding, Healed, Json, Key, Mode, Resources, Roles, Trigger, Unavailable, Unfinished, keys_of
from handlers.nova import concerns, keys
from handlers.nova.base import NovaHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.info_cache import facts, queries
from handlers.nova.info_cache.rules import Case, Facts, Problem, Renew, Vif, decide, read, state
from handlers.nova.nodes import live_instances
from handlers.nova.verdicts import Keep, Report, Wait, soonest

#: seconds from a notification to the first inspection: Nova writes the cache after some of them
_SETTLED = 65.0
#: seconds between two looks at the cache after the event, and for all of them
_PAUSE = 0.5
_PATIENCE = 10.0
_HINTS = (
    "instance.interface_attach.end",
    "instance.interface_detach.end",
    "instance.live_migration_post_dest.end",
    "instance.rebuild.end",
    "instance.resize_finish.end",
    "instance.resize_revert.end",
    "instance.unshelve.end",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The proof about one port of an instance.

    :param shown: the port's values in Neutron; None if the port does not name the instance
    """

    instance: str
    port: str
    host: str | None
    bound: str
    cached: Json | None
    shown: Json | None


class HealInfoCache(NovaHandler):
    name = "heal_info_cache"
    title = "Renew network caches of instances that differ from Neutron"
    kinds = ("instance",)
    healable_problems = frozenset({Problem.OUTDATED})
    concerned_kinds = concerns.KINDS
    triggers = tuple(Trigger(event, keys.instance, after=_SETTLED) for event in _HINTS)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 30.0
    requires = ("network", "nova_api")
    relies_on = ("nova_api", "cell")
    roles = Roles((PORTS,), (EVENTS,))
    cost = (
        "One request to Neutron per thousand ports, whose addresses stay in memory during the sweep, and one query per five "
        "hundred instances. An hour is fine."
    )

    def __init__(self, databases: NovaDatabases, network: Network, compute: Compute) -> None:
        self._databases = databases
        self._network = network
        self._compute = compute

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        databases = resources.get(NovaDatabases.from_resources)
        return cls(databases, resources.get(Network.from_resources), resources.get(Compute.from_resources))

    def inspect(self, key: Key) -> Iterable[Finding]:
        ports = [port for port in self._network.ports({"device_id": key.id}) if port.owner.startswith(INSTANCES)]
        cell, known = facts.read(self._databases, key.id)
        cases = facts.cases(known, ports, self._databases.host_names)
        judged = {port: decide(case) for port, case in cases.items()}
        if all(isinstance(verdict, Keep) for verdict in judged.values()):
            return []
        match state(known):
            case Keep():
                return []
            case Wait() as wait:
                raise soonest([wait])
        if cell is None:
            return []
        return [
            _finding(key, port, cases[port], cell, known, verdict)
            for port, verdict in judged.items()
            if isinstance(verdict, Report | Renew)
        ]

    def sweep(self) -> Iterator[Key]:
        shown: dict[str, dict[str, Vif]] = {}
        for port in self._network.ports({}, fields=(*facts.FIELDS, HOST)):
            if port.owner.startswith(INSTANCES) and port.device and port.host:
                shown.setdefault(port.device, {})[port.id] = facts.vif(port)
        down: Unavailable | None = None
        for cell in self._databases.host_cells():
            try:
                yield from self._differing(cell, shown)
            except Unavailable as error:
                down = error
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        proved = self.prove_again(finding)
        instance, port = proved.evidence["instance"], proved.evidence["port"]
        self._compute.change_network(instance, port)
        if not self._renewed(instance, port):
            raise Unfinished(f"nova-compute on {proved.evidence['host']} has not renewed the network cache yet")
        return Healed(
            f"had nova-compute read port {port} of instance {instance} again",
            before={"entry": proved.evidence["cached"]},
            after={"entry": proved.evidence["shown"]},
            undo=finding.undo,
        )

    def _differing(self, cell: Cell, shown: Mapping[str, Mapping[str, Vif]]) -> Iterator[Key]:
        last: int | None = 0
        while last is not None:
            texts, last = self._databases.database(cell).run(partial(queries.caches, after=last))
            cached = {uuid: read(text) for uuid, text in texts.items()}
            wrong = [uuid for uuid, entries in cached.items() if entries is not None and entries != shown.get(uuid, {})]
            yield from keys_of("instance", sorted(wrong))

    def _renewed(self, instance: str, port: str) -> bool:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda right: not right),
            wait=tenacity.wait_fixed(_PAUSE),
            stop=tenacity.stop_after_delay(_PATIENCE),
            retry_error_callback=lambda attempts: False,
        )
        right: bool = retrying(self._is_right, instance, port)
        return right

    def _is_right(self, instance: str, port: str) -> bool:
        found = self._network.port(port)
        _, known = facts.read(self._databases, instance)
        cached = (known.cached or {}).get(port)
        return found is not None and cached == facts.vif(found)


def _finding(key: Key, port: str, case: Case, cell: Cell, known: Facts, verdict: Report | Renew) -> Finding:
    evidence = asdict(Evidence(key.id, port, case.host, case.bound, _plain(case.cached), _plain(case.shown)))
    named = concerns.of_cell(cell)
    if known.here is not None:
        named |= concerns.of_instance(known.here)
    if isinstance(verdict, Report):
        text = f"port {port} of instance {key.id}: {verdict.summary}"
        return Finding(key, verdict.problem, text, evidence, False, verdict.refusal, concerns=named)
    return Finding(
        key,
        Problem.OUTDATED,
        f"port {port} of instance {key.id}: the network cache differs from Neutron",
        evidence,
        undo="none: the cache is a copy of Neutron's state",
        plan=str(changed_network(key.id, port)),
        concerns=named,
    )


def _plain(vif: Vif | None) -> Json | None:
    return None if vif is None else {**asdict(vif), "addresses": list(vif.addresses)}
