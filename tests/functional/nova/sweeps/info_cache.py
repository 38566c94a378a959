"""Drift of network caches."""

from __future__ import annotations

from handlers.nova.info_cache.heal_info_cache import HealInfoCache
from handlers.nova.info_cache.rules import Problem
from tests.compute import remember
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift


def server(stage: Stage) -> tuple[str, str]:
    """Boot an instance with a port that Nova's cache has."""
    with stage.cloud.ago(hours=3):
        instance = stage.cloud.boot("a")
    port = stage.neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id="a")
    remember(stage.cloud, instance, [stage.neutron.ports[port]])
    return instance, port


DRIFTS = (
    Drift(
        HealInfoCache,
        Problem.OUTDATED,
        lambda stage: stage.neutron.change(server(stage)[1], mac_address="fa:16:3e:00:00:02"),
    ),
    Drift(HealInfoCache, Problem.EMPTY, lambda stage: remember(stage.cloud, server(stage)[0], [])),
    Drift(HealInfoCache, Problem.LOST_PORT, lambda stage: stage.neutron.ports.pop(server(stage)[1])),
)
