"""The client of Placement.

A write of an allocation names the consumer's generation. A write of aggregates or inventories names the provider's generation.
Placement refuses a write if the generation has changed. ``DELETE /allocations`` takes no generation, so no code may call it:
replace the allocation by an empty one.

Consumer generations need microversion 1.28 (Rocky); consumer types need 1.38 (Xena).
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import requests

from handlers.access import request_id
from handlers.access.cloud import Cloud, Service, Write
from handlers.base import Conflict, Refused, Resources, Unavailable

#: the resources of one consumer, by provider: ``{provider: {"VCPU": 2}}``
Held = Mapping[str, Mapping[str, int]]
#: the resources that a provider gives, by consumer
ByConsumer = Mapping[str, Mapping[str, int]]
#: reads :data:`ByConsumer` of several providers
ConsumersOf = Callable[[Iterable[str]], Mapping[str, ByConsumer]]

VERSION = "1.28"
WITH_TYPES = "1.38"
#: requests at a time of inspections and heals, and as many of sweeps, so that neither waits for the other. More writes at once
#: are not faster: they collide in Placement's database, which tries each again
_AT_ONCE = 3
CONCURRENT_UPDATE = "placement.concurrent_update"


@dataclass(frozen=True, slots=True)
class Allocation:
    """The allocation of one consumer.

    :param providers: amounts by provider and resource class
    :param generation: the consumer's generation, which every write changes; None for a consumer without resources
    :param consumer_type: ``unknown`` for Nova's consumers; None without resources, or if Placement is older than 1.38
    """

    consumer: str
    providers: Held = field(default_factory=dict)
    project_id: str | None = None
    user_id: str | None = None
    generation: int | None = None
    consumer_type: str | None = None

    def command(self) -> str:
        words = ["openstack", "--os-placement-api-version", "1.28", "resource", "provider", "allocation", "set"]
        words += ["--project-id", self.project_id or "", "--user-id", self.user_id or ""]
        for provider, resources in sorted(self.providers.items()):
            amounts = ",".join(f"{name}={amount}" for name, amount in sorted(resources.items()))
            words += ["--allocation", f"rp={provider},{amounts}"]
        return shlex.join([*words, self.consumer])


def plain(held: Held) -> dict[str, dict[str, int]]:
    return {provider: dict(resources) for provider, resources in held.items()}


@dataclass(frozen=True, slots=True)
class Provider:
    """A resource provider. A compute node's root provider has the uuid of the compute node."""

    uuid: str
    name: str
    root: str


@dataclass(frozen=True, slots=True)
class ProviderAggregates:
    provider: str
    aggregates: frozenset[str]
    generation: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """A provider's inventory of one resource class.

    :param values: ``total``, ``reserved`` and the other fields of Placement's API
    :param generation: the provider's, which rises with each change of its inventories and allocations
    """

    provider: str
    resource: str
    values: Mapping[str, float]
    generation: int

    @property
    def total(self) -> int:
        return int(self.values["total"])

    @property
    def reserved(self) -> int:
        return int(self.values["reserved"])

    def command(self, reserved: int) -> str:
        """Return the ``openstack`` command that sets the reserved amount."""
        return (
            f"openstack --os-placement-api-version 1.28 resource provider inventory set --resource "
            f"{self.resource}:reserved={reserved} --amend {self.provider}"
        )


class Placement:
    """The client of Placement's API. Thread-safe.

    A write raises Conflict if the object has changed since it was read, and Refused if Placement rejects the request.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._knows_types = True
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._turns_of_sweeps = threading.BoundedSemaphore(_AT_ONCE)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(Cloud.from_resources).service("placement"))

    def allocation(self, consumer: str) -> Allocation:
        """Return a consumer's allocation; empty for an unknown consumer."""
        url = f"/allocations/{consumer}"
        response = None
        if self._knows_types:
            response = self._read(url, microversion=WITH_TYPES)
            self._knows_types = response.status_code != 406
        if response is None or response.status_code == 406:
            response = self._read(url, microversion=VERSION)
        body = self._body(response)
        providers = {uuid: dict(given["resources"]) for uuid, given in body["allocations"].items()}
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

    def allocations(self, consumers: Collection[str]) -> dict[str, Allocation]:
        asked = sorted(set(consumers))
        if len(asked) == 1:
            return {asked[0]: self.allocation(asked[0])}
        with request_id.pool(_AT_ONCE, "allocations") as pool:
            return dict(zip(asked, pool.map(self.allocation, asked), strict=True))

    def replace_allocation(self, before: Allocation, providers: Held) -> None:
        """Replace a consumer's allocation by the resources ``providers``. If they are empty, Placement deletes the consumer."""
        response = self._write(replacing(before, providers))
        if response.status_code != 204:
            raise self._failure(response, f"the allocations of {before.consumer}")

    def move_allocation(self, source: Allocation, target: Allocation) -> None:
        """Move all resources of ``source`` to ``target``, with project and user. One request changes both allocations.

        :param target: loses its former resources
        """
        response = self._write(moving(source, target))
        if response.status_code != 204:
            raise self._failure(response, f"the allocations of {source.consumer} and {target.consumer}")

    def replace_allocations(self, changes: Iterable[tuple[Allocation, Held]]) -> None:
        """Replace the allocations of several consumers in one request, which changes all of them or none.

        :param changes: each allocation as read, and its new resources
        """
        write = replacing_all(changes)
        response = self._write(write)
        if response.status_code != 204:
            raise self._failure(response, f"the allocations of {len(write.body or ())} consumers")

    def holders(self, provider: str) -> frozenset[str]:
        return frozenset(self.consumers(provider))

    def consumers_of_each(self, providers: Iterable[str]) -> dict[str, ByConsumer]:
        asked = list(providers)
        with request_id.pool(_AT_ONCE, "consumers") as pool:
            return dict(zip(asked, pool.map(partial(self._consumers, self._turns_of_sweeps), asked), strict=True))

    def consumers(self, provider: str) -> ByConsumer:
        """Return a provider's consumers with their resources; empty for an unknown provider."""
        return self._consumers(self._turns, provider)

    def _consumers(self, turns: threading.Semaphore, provider: str) -> ByConsumer:
        with turns:
            response = self._service.read(f"/resource_providers/{provider}/allocations", microversion=VERSION)
        if _is_unknown(response):
            return {}
        found = self._body(response)["allocations"]
        return {consumer: allocation["resources"] for consumer, allocation in found.items()}

    def usages(self, project: str, user: str) -> Mapping[str, int]:
        """Return, by resource class, the sum that all consumers of a project and user have."""
        query = {"project_id": project, "user_id": user}
        response = self._read("/usages", params=query, microversion=VERSION)
        usages: Mapping[str, int] = self._body(response)["usages"]
        return usages

    def compute_providers(self) -> dict[str, Provider]:
        """Return the root providers of compute nodes, by uuid."""
        return self._providers({"required": "COMPUTE_NODE"})

    def is_compute_node(self, provider: str) -> bool:
        return bool(self._providers({"uuid": provider, "required": "COMPUTE_NODE"}))

    def providers(self) -> dict[str, Provider]:
        return self._providers({})

    def generations(self) -> list[tuple[str, int]]:
        """Return the uuid and the generation of each compute node's root provider."""
        response = self._read("/resource_providers", params={"required": "COMPUTE_NODE"}, microversion=VERSION)
        return [(row["uuid"], row["generation"]) for row in self._body(response)["resource_providers"]]

    def sharing_providers(self) -> dict[str, Provider]:
        return self._providers({"required": "MISC_SHARES_VIA_AGGREGATE"})

    def named(self, name: str) -> dict[str, Provider]:
        """Return the provider with this name, by uuid, or an empty dict. The comparison can ignore letter case."""
        return self._providers({"name": name})

    def delete_provider(self, provider: str) -> None:
        """:raises Conflict: the provider is in use or does not exist
        :raises Refused: Placement refuses for another reason
        """
        response = self._write(deleting_provider(provider))
        if response.status_code == 404:
            raise Conflict(f"provider {provider} is gone")
        if response.status_code == 409:
            raise Conflict(f"provider {provider} is in use: {self._detail(response)}")
        if response.status_code != 204:
            raise self._failure(response, f"provider {provider}")

    def tree(self, provider: str) -> dict[str, Provider]:
        return self._providers({"in_tree": provider})

    def members_of_each(self, aggregates: Iterable[str]) -> dict[str, dict[str, Provider]]:
        asked = list(aggregates)
        with request_id.pool(_AT_ONCE, "members") as pool:
            return dict(zip(asked, pool.map(partial(self._members, self._turns_of_sweeps), asked), strict=True))

    def members(self, aggregate: str) -> dict[str, Provider]:
        return self._members(self._turns, aggregate)

    def _members(self, turns: threading.Semaphore, aggregate: str) -> dict[str, Provider]:
        query = {"member_of": aggregate}
        with turns:
            response = self._service.read("/resource_providers", params=query, microversion=VERSION)
        return self._listed(response)

    def marked(self, trait: str, **where: str) -> dict[str, Provider]:
        """Return the providers with a trait, by uuid; none if Placement does not know the trait.

        :param where: further conditions: ``uuid``, ``in_tree``
        """
        query = {"required": trait, **where}
        response = self._read("/resource_providers", params=query, microversion=VERSION)
        if response.status_code == 400 and _is_unknown(self._read(f"/traits/{trait}", microversion=VERSION)):
            return {}
        return self._listed(response)

    def offers(self, provider: str) -> Mapping[str, int]:
        """Return a provider's capacity by resource class, including used resources; empty for an unknown provider."""
        return {
            one.resource: int((one.total - one.reserved) * one.values["allocation_ratio"])
            for one in self.inventories(provider)
        }

    def inventories_of_each(self, providers: Iterable[str]) -> dict[str, list[Inventory]]:
        asked = list(providers)
        with request_id.pool(_AT_ONCE, "inventories") as pool:
            return dict(zip(asked, pool.map(partial(self._inventories, self._turns_of_sweeps), asked), strict=True))

    def inventories(self, provider: str) -> list[Inventory]:
        """Return a provider's inventories; none for an unknown provider."""
        return self._inventories(self._turns, provider)

    def _inventories(self, turns: threading.Semaphore, provider: str) -> list[Inventory]:
        with turns:
            response = self._service.read(f"/resource_providers/{provider}/inventories", microversion=VERSION)
        if _is_unknown(response):
            return []
        body = self._body(response)
        generation = body["resource_provider_generation"]
        return [Inventory(provider, name, values, generation) for name, values in sorted(body["inventories"].items())]

    def reserve(self, before: Inventory, reserved: int) -> None:
        """Set the reserved amount of an inventory that was read as ``before``."""
        response = self._write(reserving(before, reserved))
        if response.status_code == 404:
            raise Conflict(f"provider {before.provider} is gone")
        if response.status_code != 200:
            raise self._failure(response, f"provider {before.provider}")

    def aggregates_of_each(self, providers: Iterable[str]) -> dict[str, ProviderAggregates | None]:
        asked = list(providers)
        with request_id.pool(_AT_ONCE, "aggregates") as pool:
            return dict(zip(asked, pool.map(partial(self._aggregates, self._turns_of_sweeps), asked), strict=True))

    def aggregates(self, provider: str) -> ProviderAggregates | None:
        """Return a provider's aggregates; None for an unknown provider."""
        return self._aggregates(self._turns, provider)

    def _aggregates(self, turns: threading.Semaphore, provider: str) -> ProviderAggregates | None:
        with turns:
            response = self._service.read(f"/resource_providers/{provider}/aggregates", microversion=VERSION)
        if _is_unknown(response):
            return None
        body = self._body(response)
        return ProviderAggregates(provider, frozenset(body["aggregates"]), body["resource_provider_generation"])

    def set_aggregates(self, before: ProviderAggregates, aggregates: Iterable[str]) -> None:
        """Put a provider into exactly these aggregates."""
        response = self._write(joining(before, aggregates))
        if response.status_code == 404:
            raise Conflict(f"provider {before.provider} is gone")
        if response.status_code != 200:
            raise self._failure(response, f"provider {before.provider}")

    def _providers(self, query: Mapping[str, str]) -> dict[str, Provider]:
        return self._listed(self._read("/resource_providers", params=query, microversion=VERSION))

    def _listed(self, response: requests.Response) -> dict[str, Provider]:
        found = self._body(response)["resource_providers"]
        return {row["uuid"]: Provider(row["uuid"], row["name"], row["root_provider_uuid"]) for row in found}

    def _read(self, url: str, **arguments: Any) -> requests.Response:
        with self._turns:
            return self._service.read(url, **arguments)

    def _write(self, write: Write) -> requests.Response:
        with self._turns:
            return self._service.send(write, microversion=VERSION)

    def _body(self, response: requests.Response) -> Mapping[str, Any]:
        if response.status_code != 200:
            raise Unavailable("placement", f"answered {response.status_code}: {self._detail(response)}")
        return self._service.json(response)

    def _failure(self, response: requests.Response, subject: str) -> Exception:
        detail = self._detail(response)
        if response.status_code == 409 and CONCURRENT_UPDATE in detail:
            return Conflict(f"{subject} changed meanwhile")
        return Refused(f"Placement refuses to change {subject}: {response.status_code} {detail}")

    @staticmethod
    def _detail(response: requests.Response) -> str:
        try:
            error = response.json()["errors"][0]
            return f"{error.get('code', '')} {' '.join(str(error.get('detail', '')).split())}".strip()
        except (ValueError, LookupError, TypeError, AttributeError):
            return "no detail"


def _is_unknown(response: requests.Response) -> bool:
    """Return whether Placement itself answers 404. A proxy's 404 has no error of Placement, and proves no absence.

    Source: ``placement/util.py`` (json_error_formatter).
    """
    if response.status_code != 404:
        return False
    try:
        return isinstance(response.json()["errors"], list)
    except (ValueError, LookupError, TypeError):
        return False


def replacing(before: Allocation, providers: Held) -> Write:
    return Write("placement", "PUT", f"/allocations/{before.consumer}", _replacement(before, providers))


def replacing_all(changes: Iterable[tuple[Allocation, Held]]) -> Write:
    body = {before.consumer: _replacement(before, providers) for before, providers in changes}
    return Write("placement", "POST", "/allocations", body)


def moving(source: Allocation, target: Allocation) -> Write:
    owned = replace(target, project_id=source.project_id, user_id=source.user_id)
    return replacing_all([(source, {}), (owned, source.providers)])


def deleting_provider(provider: str) -> Write:
    return Write("placement", "DELETE", f"/resource_providers/{provider}")


def joining(before: ProviderAggregates, aggregates: Iterable[str]) -> Write:
    body = {"aggregates": sorted(aggregates), "resource_provider_generation": before.generation}
    return Write("placement", "PUT", f"/resource_providers/{before.provider}/aggregates", body)


def reserving(before: Inventory, reserved: int) -> Write:
    body = {**before.values, "reserved": reserved, "resource_provider_generation": before.generation}
    return Write("placement", "PUT", f"/resource_providers/{before.provider}/inventories/{before.resource}", body)


def _replacement(before: Allocation, providers: Held) -> dict[str, Any]:
    return {
        "allocations": {uuid: {"resources": dict(resources)} for uuid, resources in providers.items()},
        "project_id": before.project_id,
        "user_id": before.user_id,
        "consumer_generation": before.generation,
    }
