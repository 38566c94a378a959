"""Seconds from Nova's notification to the request of a failover; figures, because the machine may be busy."""

from __future__ import annotations

import statistics
import time

import pytest

from tests.cloud.octavia import installation
from tests.cloud.octavia.scene import Scene, is_request
from tests.cloud.octavia.world import disorders, world

FAILURES = 3
METHODS: dict[str, dict[str, object]] = {
    "no-preservation": {"maximum_preserved_amphora_count": 0},
    "unplug": {"maximum_preserved_amphora_count": 10, "preservation_method": "unplug"},
    "snapshot": {"maximum_preserved_amphora_count": 10, "preservation_method": "snapshot"},
}


def one_get(scene: Scene, balancer: str) -> float:
    """Return the seconds of one ``GET /loadbalancers/{id}``, the median of ten."""
    taken = []
    for _number in range(10):
        began = time.monotonic()
        scene.balancers.api.get_load_balancer(balancer)
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


@pytest.mark.parametrize("method", METHODS)
def test_seconds_from_the_notification_to_the_request(before: set[str], scene: Scene, method: str) -> None:
    (single,) = scene.create("SINGLE")
    scene.heal(**METHODS[method])
    get = one_get(scene, single)
    lags = []
    for _number in range(FAILURES):
        victim = scene.victim(single)
        scene.fail(victim, "stopped")
        scene.whole(single, victim)
        healed = installation.healed(scene.program, f"amphora:{victim.id}")
        requested = [line for line in healed if is_request(line)]
        assert requested, healed
        if requested[0]["lag_s"] is not None:
            lags.append(float(requested[0]["lag_s"]))
    assert lags, "no failure was found by a notification"
    p50 = statistics.median(lags)
    print(f"{method}: p50 {p50:.2f} s, {p50 / get:.1f} times one GET ({get * 1000:.0f} ms); all: {lags}")
    assert disorders(scene.cloud) == set()
    scene.end(single)
    scene.discard()
    assert world(scene.cloud) == before
