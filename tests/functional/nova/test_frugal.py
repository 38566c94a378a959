"""An answer that Placement repeats is the answer that it would give now."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.site import Site
from tests.functional.nova.world import make_provider, set_inventory


def names(cloud: NovaSimulation) -> set[str]:
    listed = cloud.placement.request("GET", "/resource_providers").body["resource_providers"]
    return {one["name"] for one in listed}


def test_it_notices_a_write_of_its_own(cloud: NovaSimulation) -> None:
    provider = make_provider(cloud, "first", {"VCPU": 1})
    assert names(cloud) == {"first"}
    make_provider(cloud, "second", {"VCPU": 1})
    assert names(cloud) == {"first", "second"}
    url = f"/resource_providers/{provider}/inventories"
    assert cloud.placement.request("GET", url).body["inventories"]["VCPU"]["total"] == 1
    set_inventory(cloud, provider, {"VCPU": 2})
    assert cloud.placement.request("GET", url).body["inventories"]["VCPU"]["total"] == 2


def test_it_notices_a_write_into_its_file(cloud: NovaSimulation) -> None:
    make_provider(cloud, "first", {"VCPU": 1})
    assert names(cloud) == {"first"}
    with closing(sqlite3.connect(cloud.placement.database, timeout=30)) as connection, connection:
        connection.execute("UPDATE resource_providers SET name = 'renamed'")
    assert names(cloud) == {"renamed"}


def test_it_notices_that_its_file_returned_to_an_earlier_state(site: Site, cloud: NovaSimulation) -> None:
    for name in ("first", "second"):
        make_provider(cloud, name, {"VCPU": 1})
        assert names(cloud) == {name}
        site.clear()
        assert names(cloud) == set()


def test_it_tells_versions_and_queries_apart(cloud: NovaSimulation) -> None:
    make_provider(cloud, "first", {"VCPU": 1})
    for _ in range(2):
        assert "parent_provider_uuid" not in _first(cloud, "/resource_providers", "1.13")
        assert "parent_provider_uuid" in _first(cloud, "/resource_providers", "1.14")
        assert not cloud.placement.request("GET", "/resource_providers?name=other").body["resource_providers"]


def test_a_stopped_placement_repeats_nothing(cloud: NovaSimulation) -> None:
    assert names(cloud) == set()
    cloud.placement.stop()
    with pytest.raises(ConnectionError):
        names(cloud)


def _first(cloud: NovaSimulation, path: str, version: str) -> dict[str, object]:
    found: dict[str, object] = cloud.placement.request("GET", path, version=version).body["resource_providers"][0]
    return found
