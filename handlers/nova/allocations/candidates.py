"""Asks Placement which providers could give an allocation: ``GET /allocation_candidates``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from handlers.access.cloud import Cloud, Service
from handlers.base import Resources, Unavailable
from handlers.nova.placement import Held

VERSION = "1.36"
#: candidates of one answer; two are already too many to choose from
LIMIT = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to give all resources that a query asks for.

    :param mappings: providers by the name of a group of resources; ``""`` is the group without a name
    """

    providers: Held
    mappings: Mapping[str, Sequence[str]]


class Candidates:
    def __init__(self, service: Service) -> None:
        self._service = service

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(Cloud.from_resources).service("placement"))

    def find(self, query: Sequence[tuple[str, str]]) -> list[Candidate] | str:
        """Return up to :data:`LIMIT` candidates, or the reason why Placement rejects the query."""
        asked = [*query, ("limit", str(LIMIT))]
        response = self._service.read("/allocation_candidates", params=asked, microversion=VERSION)
        if response.status_code == 400:
            return f"Placement rejects the query for candidates: {' '.join(response.text.split())[:300]}"
        if response.status_code != 200:
            raise Unavailable("placement", f"answered {response.status_code} to a query for candidates")
        return [
            Candidate(
                {provider: dict(held["resources"]) for provider, held in request["allocations"].items()},
                request["mappings"],
            )
            for request in self._service.json(response)["allocation_requests"]
        ]
