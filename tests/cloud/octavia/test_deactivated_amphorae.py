"""What Octavia left behind is removed; what only looks like it is left alone."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE, Amphora, Balancers
from tests.cloud.octavia.world import world
from tests.cloud.octavia.wreck import Wreck, age, builds_held
from tests.program import Program


def some() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def sweeping(octavia_cloud: ControlPlane, stackmend: Program) -> Program:
    stackmend.configure(
        {
            "journal": {"connection": f"sqlite:///{stackmend.folder}/journal.sqlite"},
            **installation.options(octavia_cloud, "deactivated_amphorae", deactivated_amphorae_without_rows=True),
        }
    )
    return stackmend


@pytest.fixture
def wreck(octavia_cloud: ControlPlane, balancers: Balancers) -> Iterator[Wreck]:
    with Wreck(octavia_cloud) as wreck:
        yield wreck


PROBLEMS = {
    "amphora-deactivated",
    "amphora-without-server",
    "amphora-stuck",
    "server-without-row",
    "zombie-server",
    "leaked-port",
    "leaked-vip-port",
    "leaked-security-group",
    "leaked-server-group",
    "orphan-health",
}


def sweep(program: Program, *arguments: str) -> set[str]:
    """Look for leftovers once, and heal; what was found."""
    swept = program.run("sweep", "deactivated_amphorae", *arguments)
    print(swept.stdout, swept.stderr)
    return {problem for problem in PROBLEMS if problem in swept.stdout}


def test_leftovers_go_and_look_alikes_stay(
    octavia_cloud: ControlPlane, balancers: Balancers, wreck: Wreck, sweeping: Program
) -> None:
    make_look_alikes(wreck)
    kept = world(octavia_cloud)
    made = [balancers.create(wait=False) for _number in range(4)]
    for balancer in made:
        balancers.wait_active(balancer)
    stuck, flowing, haunted, _living = made
    leave_a_request_alone(octavia_cloud, balancers, wreck, sweeping)
    master = balancers.serving(stuck)[0]
    going = make_zombie(octavia_cloud, balancers, haunted) | belongings(octavia_cloud, master)
    clean = {line for line in world(octavia_cloud) if not going & set(re.split(r"[ :]+", line))}

    make_leftovers(wreck)
    octavia_cloud.mariadb.execute(
        f"UPDATE amphora SET status = 'PENDING_DELETE', updated_at = utc_timestamp() WHERE id = '{master.id}'",
        "octavia",
    )
    wrecked = world(octavia_cloud)
    sweep(sweeping)
    assert wrecked - world(octavia_cloud) == set(), "a young object may be in the middle of a flow"

    make_leaked_groups(wreck)
    wrecked = world(octavia_cloud)
    with builds_held(octavia_cloud):
        replaced = balancers.serving(flowing)[0]
        balancers.api.failover_load_balancer(flowing)
        wait_until(lambda: is_booting(balancers, flowing), PATIENCE, "the middle of a failover")
        in_flow = world(octavia_cloud)
        age(octavia_cloud, sweeping)
        assert sweep(sweeping, "--audit") == PROBLEMS
        assert world(octavia_cloud) == in_flow
        sweep(sweeping)
        assert clean | (in_flow - wrecked) <= world(octavia_cloud), "what serves, or is in a flow however old, stays"
        assert (balancers.status(flowing), is_booting(balancers, flowing)) == ("PENDING_UPDATE", True)
    balancers.wait_replaced(flowing, replaced.id)
    balancers.wait_replaced(stuck, master.id)
    age(octavia_cloud, sweeping)
    sweep(sweeping)

    balancers.touch(*(balancer for balancer in made if len(balancers.amphorae(balancer)) == 1))
    balancers.delete(*made)
    wait_until(lambda: world(octavia_cloud) == kept, PATIENCE, "a world of nothing but look-alikes")
    age(octavia_cloud, sweeping)
    assert sweep(sweeping) == {"leaked-vip-port"}, "one is somebody else's, and only reported"
    assert world(octavia_cloud) == kept


def is_booting(balancers: Balancers, balancer: str) -> bool:
    return any(amphora.status == "BOOTING" for amphora in balancers.amphorae(balancer))


def make_zombie(cloud: ControlPlane, balancers: Balancers, balancer: str) -> set[str]:
    """Let Octavia forget a server before a failover, which then leaves it; the ids of all that it had."""
    amphora = balancers.serving(balancer)[0]
    left = belongings(cloud, amphora)
    cloud.mariadb.execute(
        f"UPDATE amphora SET compute_id = NULL, status = 'ERROR' WHERE id = '{amphora.id}'", "octavia"
    )
    balancers.api.failover_load_balancer(balancer)
    balancers.wait_replaced(balancer, amphora.id)
    wait_until(lambda: balancers.amphora(amphora.id).status == "DELETED", PATIENCE, "the zombie")
    return left


def belongings(cloud: ControlPlane, amphora: Amphora) -> set[str]:
    """The ids of an amphora, its server and its ports."""
    ports = cloud.mariadb.execute(f"SELECT id FROM ports WHERE device_id = '{amphora.server}'", "neutron").split()
    return {amphora.id, amphora.server, *ports}


def leave_a_request_alone(cloud: ControlPlane, balancers: Balancers, wreck: Wreck, sweeping: Program) -> None:
    """An amphora whose deletion was asked for while no worker ran is Octavia's to delete, however long ago that was."""
    amphora = some()
    wreck.row("ERROR", wreck.server(amphora), amphora)
    cloud.stop_service("octavia-worker")
    try:
        assert balancers.api.delete(f"/octavia/amphorae/{amphora}").status_code == 204
        age(cloud, sweeping)
        before = world(cloud)
        assert sweep(sweeping) == {"leaked-vip-port"}
        assert world(cloud) == before
        assert balancers.amphora(amphora).status == "PENDING_DELETE"
    finally:
        cloud.start_service("octavia-worker")
    wait_until(lambda: balancers.amphora(amphora).status == "DELETED", PATIENCE, "the deletion by Octavia")
    wait_until(lambda: not any(amphora in line for line in world(cloud)), PATIENCE, "the end of its server")


def make_look_alikes(wreck: Wreck) -> None:
    """Make objects that belong to another user, are preserved, or were named by hand."""
    stranger: Any = wreck.stranger
    somebodys = some()
    wreck.server(some(), stranger)
    wreck.server(some(), tags=["stackmend-preserved"])
    wreck.port(f"octavia-lb-vrrp-{some()}", stranger)
    wreck.port(f"octavia-lb-{some()}")
    wreck.port("octavia-lb-vrrp-of-mine")
    wreck.port(f"octavia-lb-{somebodys}", stranger, device_owner="Octavia", device_id=f"lb-{somebodys}")
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
    wreck.health(some())
    wreck.health(zombie)
    wreck.security_group(f"lb-{gone}")


def make_leaked_groups(wreck: Wreck) -> None:
    """Make the groups of a load balancer that is DELETED: a server group without a row is only reported."""
    gone = wreck.balancer("amphora", "DELETED")
    wreck.security_group(f"lb-{gone}")
    wreck.server_group(f"octavia-lb-{gone}")
