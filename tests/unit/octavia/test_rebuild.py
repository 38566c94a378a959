"""A load balancer in ERROR is failed over only while it still has what Octavia's deletion removes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.octavia import rebuild
from handlers.octavia.cloud_objects import Group
from handlers.octavia.rebuild import PAUSES, Remains

AMPHORA = "5b0f2d3c-8a55-4a0a-9a33-3b1d9d2a7c11"
OTHER = "6c1f2d3c-8a55-4a0a-9a33-3b1d9d2a7c12"


def tagged(amphora: str, number: int) -> Group:
    return Group("sg", "lb-x", "octavia", tags=frozenset(f"stackmend-{amphora}-{at}" for at in range(number)))


WHOLE = Remains((AMPHORA,), vip_port=True, security_group=tagged(AMPHORA, 0), server_group=True)


@pytest.mark.parametrize(
    ("remains", "reason"),
    [
        (WHOLE, ""),
        (replace(WHOLE, vip_port=False), "VIP port"),
        (replace(WHOLE, amphorae=()), "no amphora row"),
        (replace(WHOLE, server_group=False), "server group"),
        (replace(WHOLE, security_group=None), "security group"),
        (replace(WHOLE, security_group=tagged(AMPHORA, 4)), "4 failovers did not help"),
        (replace(WHOLE, security_group=tagged(AMPHORA, 3)), ""),
        (replace(WHOLE, security_group=tagged(OTHER, 9)), ""),
    ],
)
def test_every_rule(remains: Remains, reason: str) -> None:
    found = rebuild.obstacle(remains)
    assert reason in found
    assert bool(found) == bool(reason)


def test_every_rule_has_a_case() -> None:
    reasons = {
        rebuild.obstacle(replace(WHOLE, vip_port=False)),
        rebuild.obstacle(replace(WHOLE, amphorae=())),
        rebuild.obstacle(replace(WHOLE, server_group=False)),
        rebuild.obstacle(replace(WHOLE, security_group=None)),
        rebuild.obstacle(replace(WHOLE, security_group=tagged(AMPHORA, 4))),
    }
    assert reasons == {rule.reason for rule in rebuild.RULES}


def test_pauses_grow_with_the_attempts() -> None:
    pauses = [rebuild.pause(replace(WHOLE, security_group=tagged(AMPHORA, number))) for number in range(4)]
    assert pauses == list(PAUSES) == sorted(PAUSES)


def test_a_tag_fits_neutrons_limit() -> None:
    assert len(f"stackmend-{AMPHORA}-{2**51:x}") <= 60
