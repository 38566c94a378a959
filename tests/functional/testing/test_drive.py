"""``handlers.testing`` drives a handler as the engine does, and notices handlers that break the contract."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from handlers.base import Finding, Key
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.simulation import NovaSimulation
from handlers.testing import configured, findings, heal_all, refusals, swept
from tests.doubles import Mender, World


def test_it_heals_all_that_a_sweep_lists() -> None:
    mender = Mender(World({"a": 1, "b": 0, "c": 2}))

    assert [key.id for key in swept(mender)] == ["a", "c"]
    assert [healed.action for healed in heal_all(mender)] == ["mended a", "mended c"]
    assert mender.world.things == {"a": 0, "b": 0, "c": 0}


def test_a_refusal_is_no_heal() -> None:
    mender = Mender(World({"a": 1}, unhealable=frozenset({"a"})))

    assert refusals(mender, Key("thing", "a")) == ["nobody knows how"]
    assert heal_all(mender) == []
    with pytest.raises(AssertionError, match="healable"):
        refusals(Mender(World({"a": 1})), Key("thing", "a"))


def test_a_clock_in_the_evidence_is_noticed() -> None:
    class Ticking(Mender):
        ticks = 0

        def inspect(self, key: Key) -> Iterable[Finding]:
            self.ticks += 1
            yield Finding(key, "broken", "", {"now": self.ticks})

    with pytest.raises(AssertionError, match="two inspections"):
        findings(Ticking(World()), Key("thing", "a"))


def test_a_handler_that_never_ends_is_noticed() -> None:
    class Endless(Mender):
        def heal(self, finding: Finding):  # type: ignore[no-untyped-def]
            healed = super().heal(finding)
            self.world.things[finding.key.id] = 1
            return healed

    with pytest.raises(AssertionError, match="after 100 heals"):
        heal_all(Endless(World({"a": 1})))


def test_it_configures_a_real_handler(tmp_path: Path) -> None:
    cloud = NovaSimulation(tmp_path)
    cloud.start()
    try:
        cloud.add_compute("compute-1", "cell1")
        resources = configured(DiscoverHosts, cloud.options(), tmp_path)

        heal_all(DiscoverHosts.from_resources(resources))

        assert set(cloud.host_mappings()) == {"compute-1"}
        resources.close()
    finally:
        cloud.stop()
