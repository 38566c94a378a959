"""A load balancer without a flow is freed and gets its amphorae back; one on which a flow may work is not."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.cloud.control_plane import wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, wait_for_rest, world
from tests.cloud.octavia.wreck import Wreck, age, builds_held

_ROWS = """
SELECT id, provisioning_status, updated_at FROM load_balancer;
SELECT id, status, IFNULL(load_balancer_id, '-'), updated_at FROM amphora
"""


def sweep(scene: Scene, *arguments: str, **housekeeping: object) -> subprocess.CompletedProcess[str]:
    """Look at all load balancers once, and heal."""
    journal = {"connection": f"sqlite:///{scene.program.folder}/journal.sqlite"}
    options = installation.options(scene.cloud, "stuck_load_balancers", **housekeeping)
    scene.program.configure({"journal": journal, **options})
    swept = scene.program.run("sweep", "stuck_load_balancers", *arguments)
    print(swept.stdout, swept.stderr)
    return swept


def sweep_until_whole(scene: Scene, balancer: str, *gone: str, **housekeeping: object) -> None:
    """Sweep until a load balancer is whole without these, and nothing reminds it of them."""

    def whole() -> bool:
        sweep(scene, **housekeeping)
        rows = scene.balancers.amphorae(balancer)
        return scene.balancers.replaced(balancer, gone) and all(row.status == "ALLOCATED" for row in rows)

    wait_until(whole, PATIENCE, f"load balancer {balancer} whole")


def healed(scene: Scene, balancer: str) -> set[str]:
    """What was healed of it, by kind."""
    return {line["problem"] for line in installation.healed(scene.program, f"load-balancer:{balancer}")}


def rows(scene: Scene) -> str:
    """All that a heal could write in Octavia's database."""
    return scene.cloud.mariadb.execute(_ROWS, "octavia")


def building(scene: Scene) -> bool:
    """Whether Nova builds anything."""
    servers: Any = scene.compute.servers(all_projects=True)
    return any(server.status == "BUILD" for server in servers)


def has_row_in(scene: Scene, balancer: str, status: str) -> bool:
    return any(amphora.status == status for amphora in scene.balancers.amphorae(balancer))


def test_a_worker_died_in_the_middle(before: set[str], scene: Scene) -> None:
    (single,) = scene.create("SINGLE")
    victim = scene.victim(single)
    with builds_held(scene.cloud):
        scene.balancers.api.failover_load_balancer(single)
        half = scene.balancers.create(wait=False)
        for balancer in (single, half):
            wait_until(lambda one=balancer: has_row_in(scene, one, "BOOTING"), PATIENCE, "the middle of the flows")  # type: ignore[misc]
        wait_until(lambda: building(scene), PATIENCE, "the boot")
        scene.cloud.kill_service("octavia-worker")
        state = rows(scene)
        sweep(scene)
        assert rows(scene) == state, "a flow may be at work on it"
        age(scene.cloud, scene.program)
        state = rows(scene)
        sweep(scene)
        assert rows(scene) == state, "Nova is at work on its server"
    wait_until(lambda: not building(scene), PATIENCE, "the end of the boot")
    sweep(scene)
    assert rows(scene) == state, "whether a request waits is not known without a worker"
    scene.cloud.start_service("octavia-worker")

    def freed() -> bool:
        return "stuck-pending-create" in sweep(scene).stdout and "stuck-pending-update" in healed(scene, single)

    wait_until(freed, PATIENCE, "a load balancer that is free")
    sweep_until_whole(scene, single, victim.id)
    assert healed(scene, single) == {"stuck-pending-update", "failover-due", "deleted-amphora"}
    assert len(scene.balancers.serving(single)) == 1

    for status, problem in (("PENDING_CREATE", "stuck-pending-create"), ("PENDING_DELETE", "stuck-pending-delete")):
        scene.cloud.mariadb.execute(
            f"UPDATE load_balancer SET provisioning_status = '{status}' WHERE id = '{half}'", "octavia"
        )
        age(scene.cloud, scene.program)
        assert problem in sweep(scene).stdout
        assert scene.balancers.status(half) == status, "it is only reported"
        wait_until(lambda: returned(scene, half), PATIENCE, "a load balancer that its owner can delete")
        assert problem in healed(scene, half)
    assert "failover-due" not in healed(scene, half), "no failover: its owner deletes it"
    scene.balancers.delete(half)
    wait_for_rest(scene.cloud)
    assert disorders(scene.cloud) == set()
    scene.end(single)
    assert world(scene.cloud) == before


def test_a_request_that_waits_for_a_worker_is_carried_out_once(before: set[str], scene: Scene) -> None:
    (single,) = scene.create("SINGLE")
    victim = scene.victim(single)
    scene.cloud.stop_service("octavia-worker")
    try:
        scene.balancers.api.failover_load_balancer(single)
        age(scene.cloud, scene.program)
        waiting = scene.cloud.rabbitmq.ctl("list_queues", "-p", "api", "name", "messages", "consumers")
        assert "octavia_provisioning_v2\t1\t0" in waiting
        state = rows(scene)
        sweep(scene)
        assert rows(scene) == state
        assert scene.balancers.status(single) == "PENDING_UPDATE"
    finally:
        scene.cloud.start_service("octavia-worker")
    scene.balancers.wait_replaced(single, victim.id)
    assert len(scene.balancers.amphorae(single)) == 2, "the old one and one new one"
    sweep_until_whole(scene, single, victim.id)
    assert healed(scene, single) == {"deleted-amphora"}
    wait_for_rest(scene.cloud)
    assert disorders(scene.cloud) == set()
    scene.end(single)
    assert world(scene.cloud) == before


def test_wrong_numbers_and_rows_that_break_the_next_update(before: set[str], scene: Scene) -> None:
    balancers = scene.balancers
    pair, twice, broken, replaced = scene.create("ACTIVE_STANDBY", "SINGLE", "SINGLE", "SINGLE")
    lost, first = scene.victim(pair), scene.victim(twice)
    old = {balancer: scene.victim(balancer).id for balancer in (broken, replaced)}
    begin_two_failovers(scene, twice)
    for balancer in old:
        balancers.api.failover_load_balancer(balancer)
    delete_alone(scene, lost.id)
    balancers.wait_active(twice)
    wait_until(lambda: len(balancers.serving(twice)) == 2, PATIENCE, "two amphorae where one should be")
    for balancer, amphora in old.items():
        balancers.wait_replaced(balancer, amphora)
    balancers.api.update_load_balancer(broken, description="an owner's update")
    wait_until(lambda: balancers.status(broken) == "ERROR", PATIENCE, "the update that breaks")

    with Wreck(scene.cloud) as wreck:
        foreign = wreck.balancer("ovn", "PENDING_UPDATE")
        # however long this machine took: as written in a moment
        scene.cloud.mariadb.execute(
            "UPDATE load_balancer SET updated_at = utc_timestamp() + INTERVAL 1 HOUR", "octavia"
        )
        assert "amphora-count" not in sweep(scene, "--audit").stdout, "a flow that has just ended looks like it"
        age(scene.cloud, scene.program)
        state = rows(scene)
        found = sweep(scene, "--audit")
        assert found.returncode == 2
        for problem in ("amphora-count", "deleted-amphora", "load-balancer-error"):
            assert problem in found.stdout
        assert rows(scene) == state
        sweep_until_whole(scene, pair, lost.id)
        sweep_until_whole(scene, twice, first.id)
        assert {"amphora-count", "deleted-amphora"} <= healed(scene, pair)
        assert {"amphora-count", "deleted-amphora"} <= healed(scene, twice)
        assert healed(scene, replaced) == healed(scene, broken) == {"deleted-amphora"}
        assert balancers.status(broken) == "ERROR", "why is not known, and its amphora serves"
        assert balancers.status(foreign) == "PENDING_UPDATE", "it has no amphorae"
    serving = balancers.serving(broken)[0]
    age(scene.cloud, scene.program)
    sweep_until_whole(scene, broken, serving.id, stuck_load_balancers_failover_errors=True)
    wait_for_rest(scene.cloud)
    assert disorders(scene.cloud) == set()
    scene.end(pair, twice, broken, replaced)
    assert world(scene.cloud) == before


def returned(scene: Scene, balancer: str) -> bool:
    """Sweep with the operator's permission, and return whether the owner can delete the load balancer."""
    sweep(scene, stuck_load_balancers_return_to_owner=True)
    return scene.balancers.status(balancer) == "ERROR"


def begin_two_failovers(scene: Scene, balancer: str) -> None:
    """Request a failover, set the load balancer ACTIVE by hand because nothing happens, and request another one."""
    scene.cloud.stop_service("octavia-worker")
    try:
        scene.balancers.api.failover_load_balancer(balancer)
        scene.cloud.mariadb.execute(
            f"UPDATE load_balancer SET provisioning_status = 'ACTIVE' WHERE id = '{balancer}'", "octavia"
        )
        scene.balancers.api.failover_load_balancer(balancer)
    finally:
        scene.cloud.start_service("octavia-worker")


def delete_alone(scene: Scene, amphora: str) -> None:
    """Delete an amphora that has failed by Octavia's API, which replaces it by none, as an operator may."""
    scene.cloud.mariadb.execute(f"UPDATE amphora SET status = 'ERROR' WHERE id = '{amphora}'", "octavia")
    assert scene.balancers.api.delete(f"/octavia/amphorae/{amphora}").status_code == 204
    wait_until(lambda: scene.balancers.amphora(amphora).status == "DELETED", PATIENCE, "the amphora's deletion")
