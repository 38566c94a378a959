"""A load balancer in ERROR is failed over only while it still has what Octavia's deletion removes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from handlers.octavia import rebuild, records
from handlers.octavia.cloud_objects import Group
from handlers.octavia.rebuild import PAUSES, Attempt, Remains

AT = datetime(2026, 5, 1, 12)

AMPHORA = "5b0f2d3c-8a55-4a0a-9a33-3b1d9d2a7c11"
OTHER = "6c1f2d3c-8a55-4a0a-9a33-3b1d9d2a7c12"


def balancer(at: datetime = AT) -> records.LoadBalancer:
    return records.LoadBalancer("lb", "owner", "lb", "ERROR", "SINGLE", None, "amphora", at, 60.0)


def tagged(amphora: str, number: int, before: timedelta = timedelta(hours=1)) -> Group:
    """Return a security group with attempts that the row has outlived."""
    versions = (rebuild.version(balancer(AT - before - timedelta(seconds=at))) for at in range(number))
    return Group("sg", "lb-x", "octavia", tags=frozenset(Attempt(amphora, version).tag for version in versions))


WHOLE = Remains(balancer(), (AMPHORA,), vip_port=True, security_group=tagged(AMPHORA, 0), server_group=True)
WEEK = timedelta(days=7)
FREED = Group("sg", "lb-x", "octavia", tags=frozenset({"stackmend_freed_2026-05-01T12:00:00"}))


@pytest.mark.parametrize(
    ("remains", "reason"),
    [
        (WHOLE, ""),
        (replace(WHOLE, security_group=FREED), "had no flow: only its owner"),
        (replace(WHOLE, security_group=FREED, vip_port=False), "had no flow: only its owner"),
        (replace(WHOLE, vip_port=False), "VIP port"),
        (replace(WHOLE, amphorae=()), "no amphora row"),
        (replace(WHOLE, server_group=False), "server group"),
        (replace(WHOLE, security_group=None), "security group"),
        (replace(WHOLE, security_group=tagged(AMPHORA, 3)), "3 failovers within a week did not help"),
        (replace(WHOLE, security_group=tagged(AMPHORA, 3, 2 * WEEK)), "3 failovers within a week did not help"),
        (replace(WHOLE, security_group=tagged(AMPHORA, 2)), ""),
        (replace(WHOLE, security_group=tagged(OTHER, 2)), ""),
        (replace(WHOLE, security_group=tagged(OTHER, 3)), "3 failovers within a week did not help"),
        (replace(WHOLE, security_group=tagged(OTHER, 9, WEEK)), ""),
    ],
)
def test_every_rule(remains: Remains, reason: str) -> None:
    found = rebuild.obstacle(remains)
    assert reason in found
    assert bool(found) == bool(reason)


def test_every_rule_has_a_case() -> None:
    reasons = {
        rebuild.obstacle(replace(WHOLE, security_group=FREED)),
        rebuild.obstacle(replace(WHOLE, vip_port=False)),
        rebuild.obstacle(replace(WHOLE, amphorae=())),
        rebuild.obstacle(replace(WHOLE, server_group=False)),
        rebuild.obstacle(replace(WHOLE, security_group=None)),
        rebuild.obstacle(replace(WHOLE, shared="server")),
        rebuild.obstacle(replace(WHOLE, security_group=tagged(AMPHORA, 3))),
    }
    assert reasons == {rule.reason for rule in rebuild.RULES}


def test_pauses_grow_with_the_attempts() -> None:
    pauses = [rebuild.pause(replace(WHOLE, security_group=tagged(AMPHORA, number))) for number in range(3)]
    assert pauses == list(PAUSES) == sorted(PAUSES)


def test_an_attempt_counts_once_the_row_has_changed() -> None:
    unsent = replace(WHOLE, security_group=tagged(AMPHORA, 3, timedelta()))
    assert unsent.attempts == unsent.lately == 2, "the row is as it was before the last one"


def test_a_replaced_amphora_ends_the_count_of_its_pauses() -> None:
    assert replace(WHOLE, security_group=tagged(OTHER, 2)).attempts == 0
    assert replace(WHOLE, security_group=tagged(OTHER, 2)).lately == 2


def test_other_tags_are_no_attempts() -> None:
    tags = frozenset({"stackmend-", "stackmend-x", "stackmend-x-y-", f"stackmend-{AMPHORA}-xyz", "web", "-1"})
    found = list(rebuild.recorded(Group("sg", "lb-x", "octavia", tags=tags)))
    assert [attempt.amphora for attempt in found if attempt.amphora == AMPHORA] == []
    assert list(rebuild.recorded(None)) == []


def test_a_tag_fits_neutrons_limit_and_names_its_attempt() -> None:
    attempt = Attempt(AMPHORA, rebuild.version(balancer(datetime(2099, 1, 1))))
    assert len(attempt.tag) <= 60
    assert list(rebuild.recorded(Group("sg", "lb-x", "octavia", tags=frozenset({attempt.tag})))) == [attempt]
