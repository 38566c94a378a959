"""Adds the resources for ports to an allocation, and writes the chosen providers into the ports.

The heal writes the ports before the allocation. After a crash in between, the next inspection completes the heal. In the
opposite order, the inspection would find the allocation, and overlook that the ports lack providers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handlers.access.cloud import Write
from handlers.access.neutron import PROFILE, Network, Port, changing
from handlers.base import Conflict, HandlerError, Refused, Unavailable
from handlers.nova.allocations import port_requests
from handlers.nova.allocations.candidates import Candidates
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.missing_rules import Drift, Give
from handlers.nova.allocations.port_requests import ALLOCATION, Needs, Request
from handlers.nova.verdicts import Report


class PortAllocations:
    def __init__(self, network: Network, candidates: Candidates) -> None:
        self._network = network
        self._candidates = candidates

    def complete(self, needs: Needs, home: str, give: Give) -> Drift:
        """Return a copy of ``give`` with the resources for the ports, or a report why no heal can give these resources.

        :param home: the node's root provider
        """
        if not needs.requests:
            return give
        found = self._candidates.find(port_requests.question(needs, give.providers[home], home))
        chosen = Unbuildable(found) if isinstance(found, str) else port_requests.choose(needs, found)
        if isinstance(chosen, Unbuildable):
            return Report(give.problem, give.summary, chosen.reason)
        if give.providers[home] and list(chosen.mappings.get("", ())) != [home]:
            why = "because of its ports, the resources of its flavor would come from several providers"
            return Report(give.problem, give.summary, why)
        providers = {**give.providers, **chosen.providers}
        written = {request.port.id: request.allocation(chosen) for request in needs.requests if not _complete(request)}
        return dataclasses.replace(give, providers=providers, allocations=written)

    def write(self, needs: Needs, give: Give) -> list[tuple[Port, Port]]:
        """Write the chosen providers into the ports that lack them; return each of these ports before and after.

        After an error, restore the ports already written, if possible.

        :raises Conflict: a port changed since it was read
        :raises Refused, Unavailable: Neutron refuses or does not answer
        """
        changes: list[tuple[Port, Port]] = []
        for port, change in _profiles(needs, give):
            try:
                changes.append((port, self._network.update(port, change)))
            except HandlerError:
                self.take_back(changes)
                raise
        return changes

    def take_back(self, changes: Sequence[tuple[Port, Port]]) -> None:
        """Undo :meth:`write`: restore the profiles of these ports.

        If a port has changed since, or Neutron fails, the port keeps the new providers, and the next inspection uses them.
        """
        for before, now in changes:
            with contextlib.suppress(Conflict, Refused, Unavailable):
                self._network.update(now, {PROFILE: dict(before.profile)})


def writes(needs: Needs, give: Give) -> list[Write]:
    return [changing(port, change) for port, change in _profiles(needs, give)]


def _profiles(needs: Needs, give: Give) -> Iterator[tuple[Port, Mapping[str, Any]]]:
    for port in (request.port for request in needs.requests):
        if port.id in give.allocations:
            yield port, {PROFILE: {**port.profile, ALLOCATION: give.allocations[port.id]}}


def undo(give: Give) -> str:
    words = [("openstack", "port", "unset", "--binding-profile", ALLOCATION, port) for port in sorted(give.allocations)]
    return "".join(f"; {shlex.join(command)}" for command in words)


def _complete(request: Request) -> bool:
    return set(request.given) == {group.name for group in request.groups}
