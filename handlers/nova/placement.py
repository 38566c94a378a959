"""Placement, as far as handlers ask and tell it.

Everything that is written is written compare-and-set: allocations with the consumer's generation, aggregates with the
provider's. ``DELETE /allocations`` knows no generation and is never called: an allocation is taken away by replacing it
with nothing.

Microversion 1.28 (Rocky) is the oldest with consumer generations; conflicts are told apart by an error code, which came
in 1.23. The type of a consumer needs 1.38 (Xena) and is read where it can be.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import requests

from handlers.access.cloud import Cloud, Service
from handlers.base import Conflict, Refused, Resources, Unavailable

#: what is held, by provider: ``{provider: {"VCPU": 2}}``
Held = Mapping[str, Mapping[str, int]]
#: resources of a provider, by consumer
Holders = Mapping[str, Mapping[str, int]]
#: tells it of several providers
HoldersOf = Callable[[Iterable[str]], Mapping[str, Holders]]

VERSION = "1.28"
WITH_TYPES = "1.38"
#: requests at a time, of looks and heals, and as many of sweeps, so that neither waits for the other: Placement has others
#: to serve, and more writes at once are not done sooner, for they collide in its database, where each is tried again
_AT_ONCE = 3
CONCURRENT_UPDATE = "placement.concurrent_update"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one consumer holds.

    :param providers: resources by provider; empty when it holds nothing, and then all the rest is None
    :param generation: changes with every write of this consumer's allocations
    :param consumer_type: ``unknown`` for everything that Nova writes today; None when Placement is too old to tell
    """

    consumer: str
    providers: Held = field(default_factory=dict)
    project_id: str | None = None
    user_id: str | None = None
    generation: int | None = None
    consumer_type: str | None = None

    def undo(self) -> str:
        """Return the command that gives the consumer what it holds now."""
        words = ["openstack", "--os-placement-api-version", "1.28", "resource", "provider", "allocation", "set"]
        words += ["--project-id", self.project_id or "", "--user-id", self.user_id or ""]
        for provider, resources in sorted(self.providers.items()):
            amounts = ",".join(f"{name}={amount}" for name, amount in sorted(resources.items()))
            words += ["--allocation", f"rp={provider},{amounts}"]
        return shlex.join([*words, self.consumer])


@dataclass(frozen=True, slots=True)
class Provider:
    """A resource provider; a compute node's root provider has the compute node's uuid."""

    uuid: str
    name: str
    root: str


@dataclass(frozen=True, slots=True)
class ProviderAggregates:
    """The aggregates of a provider, at a generation of it."""

    provider: str
    aggregates: frozenset[str]
    generation: int


class Placement:
    """The client; safe to share between threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._knows_types = True
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._turns_of_sweeps = threading.BoundedSemaphore(_AT_ONCE)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared session."""
        return cls(resources.get(Cloud.from_resources).service("placement"))

    def allocation(self, consumer: str) -> Allocation:
        """Return what a consumer holds; an unknown consumer holds nothing."""
        url = f"/allocations/{consumer}"
        response = None
        if self._knows_types:
            response = self._read(url, microversion=WITH_TYPES)
            self._knows_types = response.status_code != 406
        if response is None or response.status_code == 406:
            response = self._read(url, microversion=VERSION)
        body = self._body(response)
        providers = {uuid: dict(held["resources"]) for uuid, held in body["allocations"].items()}
        if not providers:
            return Allocation(consumer)
        return Allocation(
            consumer,
            providers,
            body["project_id"],
            body["user_id"],
            body["consumer_generation"],
            body.get("consumer_type"),
        )

    def replace_allocation(self, before: Allocation, providers: Held) -> None:
        """Give a consumer these resources instead of those that it held; with none, the consumer is forgotten.

        :raises Conflict: when its allocations changed since ``before`` was read
        :raises Refused: when Placement takes the new ones for wrong
        """
        body = {
            "allocations": {uuid: {"resources": dict(resources)} for uuid, resources in providers.items()},
            "project_id": before.project_id,
            "user_id": before.user_id,
            "consumer_generation": before.generation,
        }
        response = self._write("PUT", f"/allocations/{before.consumer}", json=body, microversion=VERSION)
        if response.status_code != 204:
            raise self._failure(response, f"the allocations of {before.consumer}")

    def move_allocation(self, source: Allocation, target: Allocation) -> None:
        """Give a consumer exactly what another one holds, which then holds nothing: both at once, or neither.

        :param source: who holds it; it keeps its project and user
        :param target: who gets it, instead of what it holds
        :raises Conflict: when the allocations of either changed since they were read
        :raises Refused: when Placement takes the move for wrong
        """
        owner = {"project_id": source.project_id, "user_id": source.user_id}
        given = {uuid: {"resources": dict(resources)} for uuid, resources in source.providers.items()}
        body = {
            source.consumer: {**owner, "allocations": {}, "consumer_generation": source.generation},
            target.consumer: {**owner, "allocations": given, "consumer_generation": target.generation},
        }
        response = self._write("POST", "/allocations", json=body, microversion=VERSION)
        if response.status_code != 204:
            raise self._failure(response, f"the allocations of {source.consumer} and {target.consumer}")

    def replace_allocations(self, changes: Iterable[tuple[Allocation, Held]]) -> None:
        """Do the same for several consumers at once: for all of them or for none.

        :raises Conflict: when the allocations of one changed since they were read
        :raises Refused: when Placement takes the new ones of one for wrong
        """
        body = {
            before.consumer: {
                "allocations": {uuid: {"resources": dict(resources)} for uuid, resources in providers.items()},
                "project_id": before.project_id,
                "user_id": before.user_id,
                "consumer_generation": before.generation,
            }
            for before, providers in changes
        }
        response = self._write("POST", "/allocations", json=body, microversion=VERSION)
        if response.status_code != 204:
            raise self._failure(response, f"the allocations of {len(body)} consumers")

    def holders(self, provider: str) -> frozenset[str]:
        """Return the consumers that hold something of a provider; nobody, when there is no such provider."""
        return frozenset(self.held(provider))

    def held_of(self, providers: Iterable[str]) -> dict[str, Holders]:
        """Return :meth:`held` of each, for a sweep: side by side, for most of the time of each is on the way and in a database.

        :raises Unavailable: when one was not answered
        """
        asked = list(providers)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="held") as pool:
            return dict(zip(asked, pool.map(partial(self._held, self._turns_of_sweeps), asked), strict=True))

    def held(self, provider: str) -> Holders:
        """Return what each consumer holds of a provider; nobody anything, when there is no such provider."""
        return self._held(self._turns, provider)

    def _held(self, turns: threading.Semaphore, provider: str) -> Holders:
        with turns:
            response = self._service.read(f"/resource_providers/{provider}/allocations", microversion=VERSION)
        if response.status_code == 404:
            return {}
        found = self._body(response)["allocations"]
        return {consumer: allocation["resources"] for consumer, allocation in found.items()}

    def usages(self, project: str, user: str) -> Mapping[str, int]:
        """Return what all consumers of a project and user hold, of all providers together."""
        query = {"project_id": project, "user_id": user}
        response = self._read("/usages", params=query, microversion=VERSION)
        usages: Mapping[str, int] = self._body(response)["usages"]
        return usages

    def compute_providers(self) -> dict[str, Provider]:
        """Return the root providers of all compute nodes: Nova gives each the trait ``COMPUTE_NODE``."""
        return self._providers({"required": "COMPUTE_NODE"})

    def is_compute_node(self, provider: str) -> bool:
        """Whether a provider exists and has the trait of compute nodes."""
        return bool(self._providers({"uuid": provider, "required": "COMPUTE_NODE"}))

    def providers(self) -> dict[str, Provider]:
        """Return all providers, whoever made them; one request, as long as the fleet."""
        return self._providers({})

    def named(self, name: str) -> dict[str, Provider]:
        """Return the provider of this name: one or none, names are unique; Placement's database compares them."""
        return self._providers({"name": name})

    def delete_provider(self, provider: str) -> None:
        """Delete a provider; Placement refuses when somebody holds something of it, or when it has children.

        :raises Conflict: when it refuses for that, or when there is no such provider
        :raises Refused: when it refuses for anything else
        """
        response = self._write("DELETE", f"/resource_providers/{provider}", microversion=VERSION)
        if response.status_code == 404:
            raise Conflict(f"provider {provider} is gone")
        if response.status_code == 409:
            raise Conflict(f"provider {provider} is in use: {self._detail(response)}")
        if response.status_code != 204:
            raise self._failure(response, f"provider {provider}")

    def tree(self, provider: str) -> dict[str, Provider]:
        """Return the tree that a provider belongs to, itself included."""
        return self._providers({"in_tree": provider})

    def members(self, aggregate: str) -> dict[str, Provider]:
        """Return the providers that are in an aggregate."""
        return self._providers({"member_of": aggregate})

    def offers(self, provider: str) -> frozenset[str]:
        """Return the resource classes of which a provider has an inventory; none, when there is no such provider."""
        response = self._read(f"/resource_providers/{provider}/inventories", microversion=VERSION)
        if response.status_code == 404:
            return frozenset()
        return frozenset(self._body(response)["inventories"])

    def aggregates(self, provider: str) -> ProviderAggregates | None:
        """Return the aggregates of a provider, or None when there is no such provider."""
        response = self._read(f"/resource_providers/{provider}/aggregates", microversion=VERSION)
        if response.status_code == 404:
            return None
        body = self._body(response)
        return ProviderAggregates(provider, frozenset(body["aggregates"]), body["resource_provider_generation"])

    def set_aggregates(self, before: ProviderAggregates, aggregates: Iterable[str]) -> None:
        """Put a provider into exactly these aggregates.

        :raises Conflict: when the provider changed since ``before`` was read, or is gone
        """
        body = {"aggregates": sorted(aggregates), "resource_provider_generation": before.generation}
        url = f"/resource_providers/{before.provider}/aggregates"
        response = self._write("PUT", url, json=body, microversion=VERSION)
        if response.status_code == 404:
            raise Conflict(f"provider {before.provider} is gone")
        if response.status_code != 200:
            raise self._failure(response, f"provider {before.provider}")

    def _providers(self, query: Mapping[str, str]) -> dict[str, Provider]:
        response = self._read("/resource_providers", params=query, microversion=VERSION)
        found = self._body(response)["resource_providers"]
        return {row["uuid"]: Provider(row["uuid"], row["name"], row["root_provider_uuid"]) for row in found}

    def _read(self, url: str, **arguments: Any) -> requests.Response:
        with self._turns:
            return self._service.read(url, **arguments)

    def _write(self, method: str, url: str, **arguments: Any) -> requests.Response:
        with self._turns:
            return self._service.write(method, url, **arguments)

    def _body(self, response: requests.Response) -> Mapping[str, Any]:
        if response.status_code != 200:
            raise Unavailable("placement", f"answered {response.status_code}: {self._detail(response)}")
        return self._service.json(response)

    def _failure(self, response: requests.Response, what: str) -> Exception:
        detail = self._detail(response)
        if response.status_code == 409 and CONCURRENT_UPDATE in detail:
            return Conflict(f"{what} changed meanwhile")
        return Refused(f"Placement refuses to change {what}: {response.status_code} {detail}")

    @staticmethod
    def _detail(response: requests.Response) -> str:
        try:
            error = response.json()["errors"][0]
            return f"{error.get('code', '')} {' '.join(str(error.get('detail', '')).split())}".strip()
        except (ValueError, LookupError, TypeError, AttributeError):
            return "no detail"
