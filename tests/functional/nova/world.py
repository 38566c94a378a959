"""Helpers that tests of several Nova handlers share."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from handlers.base import Handler
from handlers.nova.simulation import NovaSimulation


def swept(handler: Handler) -> set[str]:
    """Return the ids of the keys of a sweep."""
    return {key.id for key in handler.sweep()}


def make_provider(cloud: NovaSimulation, name: str, offers: Mapping[str, int], parent: str | None = None) -> str:
    """Make a provider in Placement, below another one or alone, and return its uuid."""
    provider = str(uuid.uuid4())
    body = {"uuid": provider, "name": name, **({"parent_provider_uuid": parent} if parent else {})}
    assert cloud.placement.request("POST", "/resource_providers", body).status in {200, 201}
    set_inventory(cloud, provider, offers)
    return provider


def set_inventory(cloud: NovaSimulation, provider: str, offers: Mapping[str, int], **more: int) -> None:
    """Give a provider exactly these inventories."""
    url = f"/resource_providers/{provider}"
    body = {
        "resource_provider_generation": cloud.placement.request("GET", url).body["generation"],
        "inventories": {name: {"total": total, **more} for name, total in offers.items()},
    }
    reply = cloud.placement.request("PUT", f"{url}/inventories", body)
    assert reply.status == 200, reply.body


def set_traits(cloud: NovaSimulation, provider: str, *traits: str) -> None:
    """Give a provider exactly these traits."""
    url = f"/resource_providers/{provider}"
    body = {
        "resource_provider_generation": cloud.placement.request("GET", url).body["generation"],
        "traits": list(traits),
    }
    assert cloud.placement.request("PUT", f"{url}/traits", body).status == 200


def record_move(
    cloud: NovaSimulation, server: str, dest: str, status: str, kind: str = "migration", **ago: float
) -> str:
    """Add an ended migration of a server from its host to another one, and nothing else; return its uuid."""
    with cloud.ago(**(ago or {"hours": 1})):
        migration = cloud._create_migration(server, cloud.instance(server), cloud.node(dest), kind)
        cloud.set_migration(migration, status=status)
    return migration
