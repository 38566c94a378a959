"""Rules about one port of an instance and its entry in Nova's network cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.names import HostNames
from handlers.nova.records import Instance
from handlers.nova.verdicts import BUSY, MOVED_SETTLE, Keep, Report, Wait

#: what Neutron shows of a port without a usable binding
_UNUSABLE = frozenset({"", "unbound", "binding_failed"})


class Problem(StrEnum):
    OUTDATED = "cache-outdated"
    EMPTY = "cache-empty"
    LOST_PORT = "cache-names-lost-port"


@dataclass(frozen=True, slots=True)
class Vif:
    """The values of a port that the network cache copies."""

    mac: str
    addresses: tuple[str, ...]
    vif_type: str
    vnic_type: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The rows of an instance, and its network cache.

    :param here: the row in the cell that the mapping names; None without such a row
    :param building: whether the instance has a build request, or no mapping to a cell
    :param cached: the network cache's entries by port id; None if the cache is unreadable
    """

    here: Instance | None
    copies: tuple[Instance, ...]
    building: bool
    cached: Mapping[str, Vif] | None


@dataclass(frozen=True, slots=True)
class Case:
    """One port of an instance.

    :param shown: the port's values in Neutron; None if the port does not name the instance
    :param bound: the host of the port's binding; empty for an unbound port
    :param empty: whether the cache has no entry for any port
    """

    cached: Vif | None
    shown: Vif | None
    bound: str
    host: str | None
    empty: bool
    names: HostNames


@dataclass(frozen=True, slots=True)
class Renew:
    """The verdict that Nova must read the port again."""


Verdict = Keep | Report | Renew

_EMPTY = Report(
    Problem.EMPTY,
    "the network cache of its instance is empty",
    "no event fills an empty cache: set [DEFAULT] heal_instance_info_cache_interval = 60 for nova-compute of the host, until "
    "the instance shows its addresses",
)
_LOST = Report(
    Problem.LOST_PORT,
    "the network cache of its instance names it, and it does not name the instance",
    "Nova keeps the entry until the port is detached from the server, because the guest may still have the interface",
)
_UNBOUND = Report(
    Problem.OUTDATED,
    "the network cache of its instance differs, and Neutron could not bind it",
    "nova-compute sets an instance with such an entry to ERROR when it starts. Repair the binding first: the log of "
    "neutron-server has its error",
)
_OTHER_VNIC = Report(
    Problem.OUTDATED,
    "the network cache of its instance has another vnic_type",
    "Nova does not support a change of vnic_type (bug 1981813): set binding:vnic_type of the port to the cached one",
)

STATES: tuple[tuple[Callable[[Facts], bool], Callable[[Facts], Keep | Wait]], ...] = (
    (lambda it: it.building, lambda it: Keep("Nova schedules the instance")),
    (lambda it: it.here is None or it.here.deleted, lambda it: Keep("the instance is deleted")),
    (
        lambda it: sum(not copy.deleted for copy in it.copies) > 1,
        lambda it: Keep("a cross-cell resize runs, or several cells have the instance"),
    ),
    (lambda it: it.cached is None, lambda it: Keep("the cache cannot be read")),
    (lambda it: it.here is not None and it.here.host is None, lambda it: Keep("the instance has no host")),
    (lambda it: it.here is not None and it.here.vm_state == "building", lambda it: Keep("Nova builds the instance")),
    (
        lambda it: it.here is not None and it.here.task_state is not None,
        lambda it: Wait("Nova works on the instance", BUSY),
    ),
    (
        lambda it: it.here is not None and it.here.age < MOVED_SETTLE,
        lambda it: Wait("the instance changed just now", MOVED_SETTLE - (0.0 if it.here is None else it.here.age)),
    ),
)

PORTS: tuple[tuple[Callable[[Case], bool], Callable[[Case], Verdict]], ...] = (
    (lambda it: it.shown is None, lambda it: _LOST),
    (lambda it: it.shown == it.cached, lambda it: Keep("the entry is right")),
    (lambda it: it.empty, lambda it: _EMPTY),
    (lambda it: not it.names.same(it.bound, it.host), lambda it: Keep("audit_bindings reports ports on other hosts")),
    (lambda it: it.shown is not None and it.shown.vif_type in _UNUSABLE, lambda it: _UNBOUND),
    (
        lambda it: it.cached is not None and it.shown is not None and it.cached.vnic_type != it.shown.vnic_type,
        lambda it: _OTHER_VNIC,
    ),
    (lambda it: True, lambda it: Renew()),
)


def state(facts: Facts) -> Keep | Wait | None:
    """Return the verdict to leave the instance's network cache alone; None if :func:`decide` must judge each port."""
    return next((verdict(facts) for holds, verdict in STATES if holds(facts)), None)


def decide(case: Case) -> Verdict:
    return next(verdict(case) for holds, verdict in PORTS if holds(case))


def read(network_info: str | None) -> dict[str, Vif] | None:
    """Return a network cache's entries by port id; None if unreadable. As in Nova, NULL is an empty cache."""
    try:
        return {entry["id"]: _vif(entry) for entry in json.loads(network_info or "[]")}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _vif(entry: Mapping[str, object]) -> Vif:
    network = entry["network"]
    if not isinstance(network, dict):
        raise TypeError("a network is an object")
    addresses = [ip["address"] for subnet in network["subnets"] for ip in subnet["ips"]]
    mac, vif_type, vnic_type = (str(entry.get(name) or "") for name in ("address", "type", "vnic_type"))
    return Vif(mac, tuple(sorted(addresses)), vif_type, vnic_type or "normal")
