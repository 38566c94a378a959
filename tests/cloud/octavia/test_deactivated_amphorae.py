"""What Octavia left behind is removed; what only looks like it is left alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import Balancers
from tests.cloud.octavia.world import world
from tests.cloud.octavia.wreck import Wreck, age
from tests.program import Program


def some() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def sweeping(octavia_cloud: ControlPlane, stackmend: Program) -> Program:
    stackmend.configure(
        {
            "journal": {"connection": f"sqlite:///{stackmend.folder}/journal.sqlite"},
            **installation.options(octavia_cloud, "deactivated_amphorae"),
        }
    )
    return stackmend


@pytest.fixture
def wreck(octavia_cloud: ControlPlane, balancers: Balancers) -> Iterator[Wreck]:
    with Wreck(octavia_cloud) as wreck:
        yield wreck


def test_leftovers_go_and_look_alikes_stay(
    octavia_cloud: ControlPlane, balancers: Balancers, wreck: Wreck, sweeping: Program
) -> None:
    empty = world(octavia_cloud)
    living, stuck = balancers.create(wait=False), balancers.create("ACTIVE_STANDBY", wait=False)
    make_look_alikes(wreck)
    balancers.wait_active(living)
    balancers.wait_active(stuck)
    clean = world(octavia_cloud)

    make_leftovers(wreck)
    master = balancers.serving(stuck)[0]
    octavia_cloud.mariadb.execute(f"UPDATE amphora SET status = 'PENDING_DELETE' WHERE id = '{master.id}'", "octavia")
    made = world(octavia_cloud)
    # Nova tells no age of a group; a load balancer's row is there before its groups, and stays a week longer
    wrecked = {line for line in made if line in clean or not line.startswith(("server group:", "security group:"))}
    swept = sweeping.run("sweep", "deactivated_amphorae")
    print(swept.stdout, swept.stderr)
    assert world(octavia_cloud) == wrecked, "what is young may be in the middle of something"

    age(octavia_cloud)
    assert sweeping.run("sweep", "deactivated_amphorae", "--audit").returncode == 2
    assert world(octavia_cloud) == wrecked
    swept = sweeping.run("sweep", "deactivated_amphorae")
    print(swept.stdout, swept.stderr)
    balancers.wait_replaced(stuck, master.id)
    age(octavia_cloud)
    swept = sweeping.run("sweep", "deactivated_amphorae")
    print(swept.stdout, swept.stderr)

    balancers.touch(living)
    assert {line for line in clean if living in line} <= world(octavia_cloud)
    balancers.delete(stuck, living)
    look_alikes = {line for line in clean - empty if stuck not in line and living not in line}
    assert world(octavia_cloud) - empty <= look_alikes


def make_look_alikes(wreck: Wreck) -> None:
    """Make what is somebody else's, or kept, or named by hand."""
    stranger: Any = wreck.stranger
    wreck.server(some(), stranger)
    wreck.server(some(), tags=["stackmend-preserved"])
    wreck.port(f"octavia-lb-vrrp-{some()}", stranger)
    wreck.port(f"octavia-lb-{some()}")
    wreck.port("octavia-lb-vrrp-of-mine")
    wreck.port(f"octavia-lb-{some()}", stranger, device_owner="Octavia", device_id=f"lb-{some()}")
    wreck.security_group(f"lb-{some()}", stranger)
    wreck.security_group("lb-mine")
    wreck.server_group(f"octavia-lb-{some()}", stranger)


def make_leftovers(wreck: Wreck) -> None:
    """Make what Octavia leaves behind."""
    wreck.server(some())
    zombie, gone = some(), some()
    wreck.row("DELETED", wreck.server(zombie), zombie)
    for status in ("ERROR", "READY", "BOOTING", "PENDING_DELETE"):
        amphora = some()
        wreck.row(status, wreck.server(amphora), amphora)
        wreck.port(f"octavia-lb-vrrp-{amphora}")
    wreck.row("ERROR", some())
    wreck.row("ERROR")
    wreck.port(f"octavia-lb-vrrp-{some()}")
    wreck.port(f"octavia-lb-member-{some()}")
    wreck.port(f"octavia-lb-{gone}", device_owner="Octavia", device_id=f"lb-{gone}")
    wreck.security_group(f"lb-{gone}")
    wreck.server_group(f"octavia-lb-{gone}")
    wreck.health(some())
    wreck.health(zombie)
