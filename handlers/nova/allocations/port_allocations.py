"""Completes what an instance should hold by what its ports ask for, and tells Neutron which providers give it.

Placement is asked for the providers, Neutron's ports are written; which are the right ones is decided in
:mod:`handlers.nova.allocations.port_requests`.

The ports are written before the allocation, as ``nova-manage placement heal_allocations`` does. Whoever dies in between
leaves an instance that still holds nothing, with ports that say which providers are theirs: the next look finds the same
candidate, now by what the ports say, and writes the allocation. The other way round nobody would look again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence

from handlers.access.neutron import PROFILE, Network, Port
from handlers.base import Conflict, HandlerError, Refused, Unavailable
from handlers.nova.allocations import port_requests
from handlers.nova.allocations.candidates import Candidates
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.missing_rules import Drift, Give
from handlers.nova.allocations.port_requests import ALLOCATION, Needs, Request
from handlers.nova.verdicts import Report


class PortAllocations:
    """Ports that have resources in Placement; safe to share between threads."""

    def __init__(self, network: Network, candidates: Candidates) -> None:
        self._network = network
        self._candidates = candidates

    def complete(self, needs: Needs, home: str, give: Give) -> Drift:
        """Add to what is given what the ports ask for; or report why that cannot be told.

        :param home: the root provider of the instance's node, of which it gets what flavor and image say
        """
        if not needs.requests:
            return give
        found = self._candidates.find(port_requests.question(needs, give.providers[home], home))
        chosen = Unbuildable(found) if isinstance(found, str) else port_requests.choose(needs, found)
        if isinstance(chosen, Unbuildable):
            return Report(give.problem, give.summary, chosen.reason)
        if give.providers[home] and list(chosen.mappings.get("", ())) != [home]:
            why = "what its flavor says would come from several providers, because of its ports"
            return Report(give.problem, give.summary, why)
        providers = {**give.providers, **chosen.providers}
        said = {request.port.id: request.allocation(chosen) for request in needs.requests if not _complete(request)}
        return dataclasses.replace(give, providers=providers, allocations=said)

    def tell(self, needs: Needs, give: Give) -> list[tuple[Port, Port]]:
        """Write to the ports which providers give their resources; return each as it was and as it is.

        :raises Conflict: when a port changed since it was read
        :raises Refused, Unavailable: when Neutron does not take it; the ports are as they were, as far as that can be told
        """
        told: list[tuple[Port, Port]] = []
        for request in needs.requests:
            port = request.port
            if port.id not in give.allocations:
                continue
            profile = {**port.profile, ALLOCATION: give.allocations[port.id]}
            try:
                told.append((port, self._network.update(port, {PROFILE: profile})))
            except HandlerError:
                self.take_back(told)
                raise
        return told

    def take_back(self, told: Sequence[tuple[Port, Port]]) -> None:
        """Let the ports say what they said before, unless somebody has changed them since.

        A port that cannot be written keeps what it says; as long as the instance holds nothing, the next look uses it.
        """
        for before, now in told:
            with contextlib.suppress(Conflict, Refused, Unavailable):
                self._network.update(now, {PROFILE: dict(before.profile)})


def undo(give: Give) -> str:
    """Return the commands that let ports forget what they were told; empty when nothing was."""
    words = [("openstack", "port", "unset", "--binding-profile", ALLOCATION, port) for port in sorted(give.allocations)]
    return "".join(f"; {shlex.join(command)}" for command in words)


def _complete(request: Request) -> bool:
    return set(request.given) == {group.name for group in request.groups}
