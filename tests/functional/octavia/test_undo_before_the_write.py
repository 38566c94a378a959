"""A process that dies between a write and its record leaves the undo of the write in the history."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pytest

from consumer.conf.engine import EngineSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.reconciler import Reconciler
from consumer.engine.stores import JournalStore
from consumer.engine.task import Task
from consumer.journal import claiming, controls, hinting, history
from consumer.journal.database import Database
from consumer.journal.work import Claim, Hint, Priority
from handlers.base import Finding, Healed, Key, Mode
from handlers.octavia.cloud_objects import Group, Image, Port, Server
from tests.functional.octavia.mending import Killed, world
from tests.functional.octavia.operator import Operator
from tests.functional.octavia.proofs import balancers, certificates, failover, leftovers, spares
from tests.functional.octavia.proofs.drift import Drift, Scene
from tests.functional.octavia.world import House
from tests.sweeping import journal, swept
from tests.waiting import eventually

DRIFTS = (*failover.DRIFTS, *balancers.DRIFTS, *certificates.DRIFTS, *leftovers.DRIFTS, *spares.DRIFTS)
#: heals that nothing reverses
FINAL = frozenset(
    {
        "failed_amphora-failover",
        "failed_amphora-failover-load-balancer",
        "failed_amphora-drop-image",
        "failed_amphora-drop-server",
        "failed_amphora-trim",
        "stuck_load_balancers-failover-due",
        "stuck_load_balancers-amphora-count",
        "stuck_load_balancers-load-balancer-error",
        "stuck_load_balancers-stuck-children",
        "deactivated_amphorae-amphora-stuck",
        "deactivated_amphorae-server-without-row",
        "deactivated_amphorae-zombie-server",
        "deactivated_amphorae-leaked-port",
        "deactivated_amphorae-leaked-vip-port",
        "deactivated_amphorae-leaked-security-group",
        "deactivated_amphorae-leaked-server-group",
        "deactivated_amphorae-leaked-image",
        "deactivated_amphorae-orphan-health",
        "deactivated_amphorae-load-balancer-leftovers",
        "spare_pool-pool-over",
        "spare_pool-spare-claimed",
        "spare_pool-spare-failed",
    }
)
#: heals that another configuration reverses
CONFIGURED = frozenset({"spare_pool-pool-short"})
#: heals that write, and then request a failover
REQUESTING = frozenset({"failed_amphora-let-go"})
REVERSIBLE = [drift for drift in DRIFTS if str(drift) not in FINAL | CONFIGURED]
#: what an undo does not restore
LOST = {
    # marks that nothing reads without the tag
    "failed_amphora-mark": {"servers"},
    "deactivated_amphorae-amphora-eligible": {"servers"},
    # the time of a lease that has ended
    "failed_amphora-unmark": {"servers"},
    # the server runs, and was in ERROR
    "failed_amphora-stop": {"servers"},
    # the port in the management network is another one
    "failed_amphora-unplug": {"ports"},
    # the host, which Nova chooses
    "failed_amphora-shelve": {"servers"},
    # a time that the row no longer has
    "stuck_load_balancers-stuck-pending-update": {"servers"},
    # the server with its ports and the rows of its member ports
    "deactivated_amphorae-amphora-deactivated": {"rows", "servers", "ports"},
    "deactivated_amphorae-amphora-without-server": {"rows", "ports"},
}
#: values that every write changes
VOLATILE = re.compile(
    r"'(?:updated_at|last_update)': (?:None|datetime\.datetime\([^)]*\))|'revision': \d+|<State\.\w+: |>"
)

MakeHouse = Callable[..., House]


def killed(scene: Scene, drift: Drift, database: Database) -> history.Entry:
    """Let the process die between the write and its record; return the only entry of the history.

    A heal that writes and then requests a failover dies right before the request: Octavia's flow is not its own write.
    """
    heal, inspect = scene.handler.heal, scene.handler.inspect

    def dying(finding: Finding) -> Healed:
        heal(finding)
        raise Killed("between the write and its record")

    def at_the_request(call: str) -> None:
        if call.startswith("failover") and str(drift) in REQUESTING:
            raise Killed("between the write and the request")

    def inspected(key: Key) -> list[Finding]:
        return [finding for finding in inspect(key) if key != scene.key or finding.problem == drift.problem]

    scene.house.cloud.weather.before = at_the_request
    with (
        mock.patch.object(scene.handler, "heal", dying),
        mock.patch.object(scene.handler, "inspect", inspected),
        pytest.raises(Killed),
    ):
        swept(scene.handler, scene.key, database)
    scene.house.cloud.weather.before = lambda _call: None
    (entry,) = history.listing(database)
    assert (entry.problem, entry.outcome) == (drift.problem, history.Outcome.HEALING)
    return entry


def lasting(house: House) -> dict[str, list[str]]:
    return {name: [VOLATILE.sub("", one) for one in ones] for name, ones in world(house).items()}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with journal(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_the_history_has_the_undo_of_a_heal_that_was_killed(
    make_house: MakeHouse, database: Database, drift: Drift
) -> None:
    undo = killed(drift.build(make_house(**drift.settings)), drift, database).undo
    assert undo
    assert undo.startswith("none: ") == (str(drift) in FINAL)


@pytest.mark.parametrize("drift", REVERSIBLE, ids=str)
def test_the_undo_of_a_killed_heal_restores_the_state_before_it(
    make_house: MakeHouse, database: Database, drift: Drift
) -> None:
    scene = drift.build(make_house(**drift.settings))
    before, exactly = lasting(scene.house), world(scene.house)
    undo = killed(scene, drift, database).undo
    assert world(scene.house) != exactly
    Operator(scene.house).follow(undo, drift.problem)
    assert not drift.healed(scene)
    after = lasting(scene.house)
    assert {name for name in before if before[name] != after[name]} == LOST.get(str(drift), set())


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_the_history_names_every_object_that_a_killed_heal_deleted(
    make_house: MakeHouse, database: Database, drift: Drift
) -> None:
    scene = drift.build(make_house(**drift.settings))
    scene.house.octavia.pace.held = True
    before = objects(scene.house)
    entry = killed(scene, drift, database)
    named = f"{entry.key} {entry.evidence} {entry.plan} {entry.undo}"
    assert {one for one in before - objects(scene.house) if one not in named} == set()


def objects(house: House) -> set[str]:
    """Return the ids of all objects, without those that Nova itself deletes with a server."""
    cloud = house.cloud
    found: list[Server | Port | Image | Group] = [*cloud.servers(), *cloud.ports(), *cloud.images()]
    found += [*cloud.server_groups(), *cloud.security_groups()]
    return {one.id for one in found if one.name and not one.name.endswith("-shelved")}


def killed_daemon(scene: Scene, database: Database) -> None:
    """Let a daemon take the row of the object over, and die between the write and its record."""
    heal = scene.handler.heal

    def dying(finding: Finding) -> Healed:
        heal(finding)
        raise Killed("between the write and its record")

    claims: list[Claim] = []

    def taken() -> bool:
        claiming.end(database, [lease for lease in claiming.leases(database) if lease.over])
        claims.extend(claiming.claim(database, "r1", [scene.handler.name], 1, 0.0))
        return bool(claims)

    task = Task(scene.handler, TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    eventually(taken)
    with (
        mock.patch.object(type(scene.handler), "confirm_after", 0.0),
        mock.patch.object(scene.handler, "heal", dying),
        pytest.raises(Killed),
    ):
        Reconciler(EngineSettings(), "r1").reconcile(task, claims[0], JournalStore(database, {}))


def test_each_of_two_killed_heals_has_its_own_undo(house: House, database: Database) -> None:
    """The second process finds the load balancer in ERROR, because the first one freed it, and fails it over."""
    (drift,) = (one for one in DRIFTS if str(one) == "stuck_load_balancers-stuck-pending-update")
    scene = drift.build(house)
    house.octavia.pace.held = True
    controls.ensure(database, [scene.handler.name])
    hinting.enqueue(database, [Hint(scene.handler.name, scene.key, Priority.EVENT, "test")])
    for _process in range(2):
        killed_daemon(scene, database)
    freeing, failover = sorted(history.listing(database), key=lambda entry: entry.id)
    assert (failover.problem, failover.outcome) == ("failover-due", history.Outcome.HEALING)
    assert failover.undo.startswith("none: ")
    assert (freeing.problem, freeing.outcome) == ("stuck-pending-update", history.Outcome.HEALED)
    assert freeing.undo.startswith("UPDATE load_balancer SET provisioning_status='PENDING_UPDATE'")
