"""A second Octavia uses the same project: its servers and ports stay."""

from __future__ import annotations

import uuid

import pytest

from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import Balancers
from tests.cloud.octavia.world import world
from tests.cloud.octavia.wreck import Wreck, age
from tests.program import Program


@pytest.mark.parametrize(
    ("topology", "number", "allowed"),
    [("SINGLE", 1, False), ("SINGLE", 3, True), ("ACTIVE_STANDBY", 3, True)],
    ids=["one", "three", "three beside a pair"],
)
def test_its_servers_and_ports_are_not_deleted(
    balancers: Balancers, stackmend: Program, topology: str, number: int, allowed: bool
) -> None:
    """With the option one server would go; three are more than a few, so the two databases may differ."""
    cloud = balancers.cloud
    balancers.create(topology)
    with Wreck(cloud) as wreck:
        for _number in range(number):
            theirs = str(uuid.uuid4())
            wreck.server(theirs)
            wreck.port(f"octavia-lb-vrrp-{theirs}")
        age(cloud, stackmend)
        there = world(cloud)
        stackmend.configure(
            {
                "journal": {"connection": f"sqlite:///{stackmend.folder}/journal.sqlite"},
                **installation.options(cloud, "deactivated_amphorae", deactivated_amphorae_without_rows=allowed),
            }
        )
        swept = stackmend.run("sweep", "deactivated_amphorae")
        print(swept.stdout, swept.stderr)
        assert "server-without-row" in swept.stdout
        assert world(cloud) == there
