"""What an instance's ports ask of Placement, and which providers should give it. Pure: no I/O.

A port with a guaranteed bandwidth or packet rate has a ``resource_request``: groups of resources, each to be given by one
provider below the compute node (a network card, a virtual switch). Nova claims them for the instance together with what
flavor and image say, and tells Neutron in the port's ``binding:profile`` which provider gives each group: ``allocation``.

To rebuild a lost allocation, Placement is asked for the candidates in the node's tree: one group of flavor and image, and
one for each group of each port. Those candidates count that agree with the ports' ``allocation``, which says what the host
really uses. When exactly one is left, it is what the instance should hold; a port whose ``allocation`` was lost as well
gets it from there. Several differ in a way that only the host could tell (which of two cards), so nobody chooses.

Neutron speaks of groups in two ways: a port has one group, named by the port, or, with the extension
``port-resource-request-groups``, several with names of their own.

Sources: ``nova/cmd/manage.py`` (_get_port_allocations_to_heal), ``nova/objects/request_spec.py`` (RequestGroup),
``nova/network/neutron.py`` (_get_binding_profile_allocation), ``neutron/services/qos/qos_plugin.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handlers.access.neutron import Port
from handlers.nova.allocations.candidates import Candidate
from handlers.nova.allocations.entitlement import Unbuildable

#: the key of ``binding:profile`` that says which providers give a port's resources
ALLOCATION = "allocation"
#: the attribute of a port, and the extension of Neutron that has it
REQUEST = "resource_request"
EXTENSION = "port-resource-request"


@dataclass(frozen=True, slots=True)
class Group:
    """What one provider has to give to a port.

    :param name: Neutron's id of it, or the port's where a port has but one
    :param traits: what the provider has to have
    """

    name: str
    resources: Mapping[str, int]
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What a port asks for.

    :param together: names of groups whose providers have to be in one subtree
    :param plain: Neutron speaks of one group without a name; then ``allocation`` is a provider, else providers by group
    """

    port: Port
    groups: tuple[Group, ...]
    together: tuple[str, ...] = ()
    plain: bool = False

    @property
    def given(self) -> Mapping[str, str]:
        """The provider of each group, as the port says it; nothing when it does not."""
        said = self.port.profile.get(ALLOCATION)
        if not said:
            return {}
        return {self.groups[0].name: said} if self.plain else said

    def allocation(self, candidate: Candidate) -> str | dict[str, str]:
        """Return what the port should say, for these providers."""
        providers = {group.name: candidate.mappings[group.name][0] for group in self.groups}
        return providers[self.groups[0].name] if self.plain else providers


@dataclass(frozen=True, slots=True)
class Needs:
    """What all ports of an instance ask for.

    :param isolated: groups must not share a provider (the flavor's ``group_policy``)
    """

    requests: tuple[Request, ...] = ()
    isolated: bool = False


def read(ports: Iterable[Port], group_policy: str = "none") -> Needs | Unbuildable:
    """Read what ports ask for; or why they forbid to rebuild the instance's allocation."""
    requests: list[Request] = []
    for port in ports:
        if port.profile.get("arq_uuid"):
            return Unbuildable(f"its port {port.id} has a device of Cyborg's, which would be left out")
        try:
            request = _request(port)
        except (ValueError, LookupError, TypeError, AttributeError):
            return Unbuildable(f"what its port {port.id} asks of Placement cannot be understood")
        if request is not None:
            requests.append(request)
        elif port.profile.get(ALLOCATION):
            why = f"its port {port.id} has resources in Placement, and Neutron does not say which"
            return Unbuildable(why)
    return Needs(tuple(requests), group_policy == "isolate")


def cached(network_info: str | None) -> frozenset[str] | None:
    """Return the ids of the ports in Nova's network cache; None when it cannot be read."""
    try:
        return frozenset(str(vif["id"]) for vif in json.loads(network_info or ""))
    except (ValueError, LookupError, TypeError):
        return None


def question(needs: Needs, wanted: Mapping[str, int], home: str) -> list[tuple[str, str]]:
    """Return the query for Placement's candidates.

    :param wanted: what flavor and image say; nothing of it is zero
    :param home: the root provider of the instance's node
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
    """Return the only candidate that agrees with what the ports say; or why there is none."""
    if not candidates:
        return Unbuildable(
            "its node has no room, or no fitting providers, for all that flavor, image and ports ask for together"
        )
    agreeing = [one for one in candidates if _agrees(needs, one)]
    if not agreeing:
        return Unbuildable("its ports say that providers give their resources which cannot, on its node")
    if len(agreeing) > 1:
        return Unbuildable(
            "several providers of its node could give what its ports ask for, and nothing tells which ones do; a live "
            "migration claims everything anew"
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
        raise ValueError("it names groups that are not the port's")
    return request


def _group(name: str, asked: Mapping[str, object]) -> Group:
    resources, traits = asked["resources"], asked.get("required") or ()
    if not isinstance(resources, dict) or not isinstance(traits, list | tuple):
        raise TypeError("neither resources nor traits")
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
