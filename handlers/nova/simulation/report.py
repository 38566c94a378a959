"""Nova's client of Placement: calls of ``nova.scheduler.client.report``. A call raises RuntimeError if Placement refuses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handlers.nova.simulation.placement import PlacementServer, Reply

#: Provider uuid to amounts by resource class.
Held = Mapping[str, Mapping[str, int]]


class Report:
    def __init__(self, server: PlacementServer, project_id: str, user_id: str) -> None:
        self._server = server
        self._project_id = project_id
        self._user_id = user_id

    def create_provider(self, uuid: str, name: str, capacity: Mapping[str, int]) -> None:
        """Create a compute node's provider, inventory and trait (update_from_provider_tree)."""
        url = f"/resource_providers/{uuid}"
        inventories = {resource: {"total": total} for resource, total in capacity.items()}
        self._ask("POST", "/resource_providers", {"uuid": uuid, "name": name})
        self._ask("PUT", f"{url}/inventories", {"resource_provider_generation": 0, "inventories": inventories})
        self._ask("PUT", f"{url}/traits", {"resource_provider_generation": 1, "traits": ["COMPUTE_NODE"]})

    def create_child(
        self, uuid: str, name: str, parent: str, capacity: Mapping[str, int], traits: Sequence[str]
    ) -> None:
        """Create a provider below ``parent``, with resource classes, inventory and traits."""
        url = f"/resource_providers/{uuid}"
        for resource in capacity:
            self._ask("PUT", f"/resource_classes/{resource}")
        inventories = {resource: {"total": total} for resource, total in capacity.items()}
        self._ask("POST", "/resource_providers", {"uuid": uuid, "name": name, "parent_provider_uuid": parent})
        self._ask("PUT", f"{url}/inventories", {"resource_provider_generation": 0, "inventories": inventories})
        self._ask("PUT", f"{url}/traits", {"resource_provider_generation": 1, "traits": list(traits)})

    def name(self, provider: str) -> str:
        return str(self._ask("GET", f"/resource_providers/{provider}").body["name"])

    def reserved(self, provider: str, resource: str) -> int:
        return int(self._ask("GET", f"/resource_providers/{provider}/inventories/{resource}").body["reserved"])

    def reserve(self, provider: str, resource: str, reserved: int) -> None:
        url = f"/resource_providers/{provider}/inventories/{resource}"
        self._ask("PUT", url, {**self._ask("GET", url).body, "reserved": reserved})

    def delete_provider(self, uuid: str) -> None:
        self._ask("DELETE", f"/resource_providers/{uuid}")

    def held(self, consumer: str) -> dict[str, dict[str, int]]:
        return self._read(consumer)[0]

    def hold(self, consumer: str, held: Held) -> None:
        """Replace a consumer's allocation (claim_resources); an empty ``held`` deletes the consumer."""
        _, generation = self._read(consumer)
        if held or generation is not None:
            self._ask("PUT", f"/allocations/{consumer}", self._wanted(held, generation))

    def move(self, source: str, target: str) -> None:
        """Move an allocation to a consumer that has none, in one call (move_allocations)."""
        held, generation = self._read(source)
        self._ask("POST", "/allocations", {source: self._wanted({}, generation), target: self._wanted(held, None)})

    def aggregates(self, provider: str) -> set[str]:
        return set(self._ask("GET", f"/resource_providers/{provider}/aggregates").body["aggregates"])

    def set_member(self, provider: str, aggregate: str, member: bool) -> None:
        """Add a provider to an aggregate, or remove it (aggregate_add_host, aggregate_remove_host)."""
        url = f"/resource_providers/{provider}/aggregates"
        now = self._ask("GET", url).body
        wanted = set(now["aggregates"]) - {aggregate} | ({aggregate} if member else set())
        generation = now["resource_provider_generation"]
        self._ask("PUT", url, {"aggregates": sorted(wanted), "resource_provider_generation": generation})

    def _read(self, consumer: str) -> tuple[dict[str, dict[str, int]], int | None]:
        body = self._ask("GET", f"/allocations/{consumer}").body
        held = {provider: dict(entry["resources"]) for provider, entry in body["allocations"].items()}
        return held, body.get("consumer_generation")

    def _wanted(self, held: Held, generation: int | None) -> dict[str, Any]:
        return {
            "allocations": {provider: {"resources": dict(amounts)} for provider, amounts in held.items()},
            "project_id": self._project_id,
            "user_id": self._user_id,
            "consumer_generation": generation,
        }

    def _ask(self, method: str, path: str, body: Any = None) -> Reply:
        reply = self._server.request(method, path, body)
        if reply.status >= 400:
            raise RuntimeError(f"Placement: {method} {path}: {reply.status} {dict(reply.body)}")
        return reply
