"""Pure functions that parse which resources an instance's ports request, and choose the providers for them.

A port with guaranteed bandwidth or packet rate requests groups of resources. Each group comes from one provider below the
compute node. Nova writes this provider as ``allocation`` into the port's ``binding:profile``.

Placement proposes candidates: sets of providers that could give all resources. A port's ``allocation`` names the
providers that the host uses, so a candidate with different providers is wrong. If exactly one candidate is left, it is right,
even for a port that lost its ``allocation``.

Sources: ``nova/cmd/manage.py`` (_get_port_allocations_to_heal), ``nova/objects/request_spec.py`` (RequestGroup),
``nova/network/neutron.py`` (_get_binding_profile_allocation), ``neutron/services/qos/qos_plugin.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from handlers.access.neutron import Port
from handlers.nova.allocations.candidates import Candidate
from handlers.nova.allocations.entitlement import Unbuildable, total
from handlers.nova.placement import Held

#: the key of ``binding:profile`` with the providers of a port's resources
ALLOCATION = "allocation"
#: the attribute of a port, and the extension of Neutron that has it
REQUEST = "resource_request"
EXTENSION = "port-resource-request"
#: the classes that only ports ask for
_PORT_CLASSES = ("NET_BW_", "NET_PACKET_RATE_")


def is_port_class(name: str) -> bool:
    return name.startswith(_PORT_CLASSES)


@dataclass(frozen=True, slots=True)
class Group:
    """The resources that one provider has to give to a port.

    :param name: Neutron's id of the group, or the port's id for a group without an id
    """

    name: str
    resources: Mapping[str, int]
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """All resources that a port requests.

    :param together: names of groups whose providers must be in one subtree
    :param plain: whether the port has one group without an id; then its ``allocation`` is a provider, otherwise a mapping of
        groups to providers
    """

    port: Port
    groups: tuple[Group, ...]
    together: tuple[str, ...] = ()
    plain: bool = False

    @property
    def given(self) -> Mapping[str, str]:
        written = self.port.profile.get(ALLOCATION)
        if not written:
            return {}
        return {self.groups[0].name: written} if self.plain else written

    def allocation(self, candidate: Candidate) -> str | dict[str, str]:
        """Return the ``allocation`` for the port's ``binding:profile`` with a candidate's providers."""
        providers = {group.name: candidate.mappings[group.name][0] for group in self.groups}
        return providers[self.groups[0].name] if self.plain else providers


@dataclass(frozen=True, slots=True)
class Needs:
    """The requests of all ports of an instance.

    :param isolated: whether groups must have different providers (the flavor's ``group_policy``)
    """

    requests: tuple[Request, ...] = ()
    isolated: bool = False

    def total(self) -> dict[str, int]:
        return total({group.name: group.resources for request in self.requests for group in request.groups})


@dataclass(frozen=True, slots=True)
class Unshown(Unbuildable):
    """Neutron does not show a port that Nova's network cache names.

    :param others: the requests of the ports that Neutron shows
    """

    others: Needs = field(default_factory=Needs)


def read(ports: Iterable[Port], group_policy: str = "none") -> Needs | Unbuildable:
    """Return the resource requests of an instance's ports, or why no allocation can be built from them."""
    requests: list[Request] = []
    for port in ports:
        if port.profile.get("arq_uuid"):
            return Unbuildable(f"its port {port.id} has a device of Cyborg's, which would be missing")
        try:
            request = _request(port)
        except (ValueError, LookupError, TypeError, AttributeError):
            return Unbuildable(f"the resource_request of its port {port.id} has an unknown form")
        if request is not None:
            requests.append(request)
        elif port.profile.get(ALLOCATION):
            why = f"its port {port.id} has resources in Placement, and Neutron does not show which"
            return Unbuildable(why)
    return Needs(tuple(requests), group_policy == "isolate")


def cached(network_info: str | None) -> frozenset[str] | None:
    """Return the port ids in Nova's network cache; None if the cache is unreadable."""
    try:
        return frozenset(str(vif["id"]) for vif in json.loads(network_info or ""))
    except (ValueError, LookupError, TypeError):
        return None


def exceeds(held: Held, needs: Needs) -> bool:
    """Return whether the instance has more resources of a provider than its ports request from that provider.

    :param held: the instance's resources of classes that only ports request
    """
    asked: dict[tuple[str, str], int] = {}
    for request in needs.requests:
        for group in request.groups:
            for name, amount in group.resources.items():
                place = request.given.get(group.name, ""), name
                asked[place] = asked.get(place, 0) + amount
    return any(
        amount > asked.get((provider, name), 0)
        for provider, amounts in held.items()
        for name, amount in amounts.items()
    )


def question(needs: Needs, wanted: Mapping[str, int], home: str) -> list[tuple[str, str]]:
    """Return the query for Placement's allocation candidates.

    :param wanted: the resources for flavor and image, without amounts of zero
    """
    asked = [("in_tree", home), ("resources", _amounts(wanted))] if wanted else []
    for request in needs.requests:
        for group in request.groups:
            asked += [(f"in_tree{group.name}", home), (f"resources{group.name}", _amounts(group.resources))]
            if group.traits:
                asked.append((f"required{group.name}", ",".join(group.traits)))
        if request.together:
            asked.append(("same_subtree", ",".join(request.together)))
    return [*asked, ("group_policy", "isolate" if needs.isolated else "none")]


def choose(needs: Needs, candidates: Sequence[Candidate]) -> Candidate | Unbuildable:
    """Return the only candidate that agrees with the ports' profiles, or why no candidate or several agree."""
    if not candidates:
        return Unbuildable(
            "its node has no room, or no fitting providers, for all that flavor, image and ports ask for together"
        )
    agreeing = [one for one in candidates if _agrees(needs, one)]
    if not agreeing:
        return Unbuildable("its ports' profiles name providers that cannot give their resources on its node")
    if len(agreeing) > 1:
        return Unbuildable(
            "several providers of its node could give the resources of its ports, and nothing shows which ones do; a live "
            "migration claims everything again"
        )
    return agreeing[0]


def _request(port: Port) -> Request | None:
    asked = port.shown.get(REQUEST)
    if not asked:
        return None
    if "request_groups" not in asked:
        return Request(port, (_group(port.id, asked),), plain=True)
    groups = tuple(_group(str(group["id"]), group) for group in asked["request_groups"])
    if not groups:
        return None
    request = Request(port, groups, tuple(asked.get("same_subtree") or ()))
    if not {*request.given, *request.together} <= {group.name for group in groups}:
        raise ValueError("the profile names groups that are not the port's")
    return request


def _group(name: str, asked: Mapping[str, object]) -> Group:
    resources, traits = asked["resources"], asked.get("required") or ()
    if not isinstance(resources, dict) or not isinstance(traits, list | tuple):
        raise TypeError("resources or traits of an unknown form")
    amounts = {str(cls): int(amount) for cls, amount in resources.items() if int(amount)}
    if not amounts:
        raise ValueError("a group without resources")
    return Group(name, amounts, tuple(str(trait) for trait in traits))


def _agrees(needs: Needs, candidate: Candidate) -> bool:
    return all(
        list(candidate.mappings.get(name, ())) == [provider]
        for request in needs.requests
        for name, provider in request.given.items()
    )


def _amounts(resources: Mapping[str, int]) -> str:
    return ",".join(f"{name}:{amount}" for name, amount in sorted(resources.items()))
