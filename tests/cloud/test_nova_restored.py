"""A database that is restored, emptied or exchanged for real: no handler changes a row, with or without memory.

Each state is made twice: once for the default modes, once with every handler in mode heal. Neither budget nor breaker may
hide a wrong heal, so both are out of the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer import plugins
from tests.cloud import backup, census, drift
from tests.cloud.backup import Backup
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.seed import together
from tests.program import Program

NAMES = tuple(handler.name for handler in plugins.handlers() if handler.group == "audit")
#: Options of the handlers, by the name of the case.
MODES: Mapping[str, Mapping[str, object]] = {
    "default modes": {},
    "every handler heals": {f"{name}_mode": "heal" for name in NAMES},
}
every_mode = pytest.mark.parametrize("modes", MODES.values(), ids=MODES)


def installation(cloud: ControlPlane, folder: Path, modes: Mapping[str, object]) -> Program:
    """Return an installation with a journal that remembers nothing."""
    engine: dict[str, object] = {"breaker_count": 100_000, "heals_per_hour": 0, "poll_seconds": 0.2}
    # The allocation of an instance without mapping is refused. The sweep after the mapping's heal gives it.
    audit = {**modes, "heal_allocations_interval": 15}
    return Program(folder, {**cloud.account.options(), "audit": audit, "engine": engine})


def swept(program: Program) -> set[tuple[str, str]]:
    """Sweep once; return problem and object of everything that is found, none of which may be healed.

    A finding about an instance names it, though its key may be the node on which the instance holds nothing.
    """
    ran = program.run("sweep", "-f", "json")
    print(ran.stdout, ran.stderr)
    assert ran.returncode == 2, "drift is found, and every inspection ends with a verdict"
    lines = json.loads(ran.stdout)
    assert [line for line in lines if line["action"] == "healed"] == []
    objects = {(line["problem"], line["key"].rpartition(":")[2]) for line in lines}
    return objects | {
        (line["problem"], line["evidence"]["instance"]) for line in lines if "instance" in line["evidence"]
    }


@dataclass(frozen=True)
class Servers:
    """The servers of this file, by the part that they play. All live in cell1 but ``neighbour``."""

    ids: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.ids[name]


@pytest.fixture(scope="module")
def servers(cloud: ControlPlane) -> Iterator[Servers]:
    """Two shelved servers, one of them with a port, and two that run: one with a port, and one in another cell."""
    plugged = {"networks": [{"uuid": drift.create_network(cloud, "restored")}]}
    more = {"shelved with port": plugged, "resident": plugged}
    ids = boot(cloud, "shelved", "shelved with port", "resident", neighbour="compute-3", more=more)
    for name in ("shelved", "shelved with port"):
        cloud.admin.compute.shelve_server(ids[name])
    for name in ("shelved", "shelved with port"):
        cloud.wait_for_server(ids[name], "SHELVED_OFFLOADED", 120)
    backup.grow_older(cloud)
    yield Servers(ids)
    together(*(lambda server=server: cloud.delete(server) for server in ids.values()))


def boot(
    cloud: ControlPlane, *names: str, more: Mapping[str, Mapping[str, Any]] | None = None, **elsewhere: str
) -> dict[str, str]:
    """Boot servers on compute-1, and others where they are wanted; return their ids by name."""
    hosts = dict.fromkeys(names, "compute-1") | elsewhere
    booted = together(
        *(lambda n=name, h=host: cloud.boot(n, host=h, **(more or {}).get(n, {})) for name, host in hosts.items())
    )
    return {name: server.id for name, server in zip(hosts, booted, strict=True)}


@pytest.fixture(scope="module", autouse=True)
def health(cloud: ControlPlane, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is wrong before the first test, nor after the last one."""
    folder = tmp_path_factory.mktemp("health")
    assert_nothing_found(cloud, folder / "before")
    yield
    assert_nothing_found(cloud, folder / "after")
    assert census.disorders(cloud) == set()


def assert_nothing_found(cloud: ControlPlane, folder: Path) -> None:
    with installation(cloud, folder, MODES["every handler heals"]) as program:
        audit = program.run("sweep", "--audit", "-f", "json")
    assert (audit.returncode, audit.stdout.strip()) == (0, "[]"), audit.stdout + audit.stderr


def assert_heals(cloud: ControlPlane, server: str, sweep: Callable[[], object]) -> None:
    """Take mapping and allocation from a server that is right; a sweep must bring both back."""
    mapped = f"SELECT cell_id, project_id, queued_for_delete FROM instance_mappings WHERE instance_uuid = '{server}'"
    before = cloud.mariadb.execute(mapped, "nova_api"), drift.allocation(cloud.admin.placement, server)["allocations"]
    assert all(before)
    cloud.mariadb.execute(f"DELETE FROM instance_mappings WHERE instance_uuid = '{server}'", "nova_api")
    drift.allocate(cloud.admin.placement, server, {})

    sweep()

    def back() -> bool:
        after = (
            cloud.mariadb.execute(mapped, "nova_api"),
            drift.allocation(cloud.admin.placement, server)["allocations"],
        )
        return [after[0], _amounts(after[1])] == [before[0], _amounts(before[1])]

    wait_until(back, 90, "the heals of mapping and allocation")
    backup.grow_older(cloud)


def _amounts(allocations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {provider: held["resources"] for provider, held in allocations.items()}


def stopped(program: Program) -> dict[str, str]:
    """Return the handlers that are stopped, and why."""
    listed = {line["name"]: line["state"] for line in program.json("handler", "list")}
    return {name: state for name, state in listed.items() if state.startswith("stopped") and name in NAMES}


# an empty schema


@pytest.fixture(scope="module")
def empty(cloud: ControlPlane) -> Iterator[None]:
    """There is a schema without rows."""
    with backup.empty_schema(cloud):
        yield


@every_mode
@pytest.mark.usefixtures("empty")
def test_a_cell_that_leads_to_an_empty_schema_costs_nothing(
    cloud: ControlPlane, servers: Servers, tmp_path: Path, modes: Mapping[str, object]
) -> None:
    before = drift.dump(cloud)
    with backup.led_to(cloud, "cell1", backup.EMPTY), installation(cloud, tmp_path / "first", modes) as program:
        found = swept(program)
    assert drift.dump(cloud) == before
    assert found >= {
        ("port-of-unknown-instance", servers["shelved with port"]),
        ("unknown-consumer", servers["resident"]),
        ("mapping-unexplained", "compute-1"),
        ("provider-unexplained", drift.provider(cloud, "compute-1")),
    }
    # a sweep may list the mappings one by one or as a range
    assert "mapping-left-behind" in {problem for problem, _ in found}


@pytest.mark.usefixtures("empty")
def test_a_journal_recognises_an_empty_schema_and_stops_the_handlers(
    cloud: ControlPlane, servers: Servers, tmp_path: Path
) -> None:
    with installation(cloud, tmp_path / "stackmend", MODES["every handler heals"]) as program:
        assert program.run("sweep", "discover_hosts").returncode == 0
        before = drift.dump(cloud)
        with backup.led_to(cloud, "cell1", backup.EMPTY):
            program.start()
            wait_until(lambda: set(stopped(program)) == set(NAMES), 60, "the stop of every handler")
            assert_one_message(program, "the database cell:cell1 is an older copy of itself", "known rows is there")
            marks = {line["check"]: line["details"] for line in program.json("check")}
            assert {"watermark: nova_api", "watermark: cell:cell1", "watermark: placement"} <= marks.keys()
            assert "0 old rows" in marks["watermark: cell:cell1"]
            assert drift.dump(cloud) == before
        assert_resumes(cloud, servers, program)


def assert_one_message(program: Program, *words: str) -> None:
    """The log has one critical line, which names the database and the difference."""
    [line] = [line for line in program.log.read_text().splitlines() if "CRITICAL" in line]
    print(line)
    assert all(word in line for word in (*words, "stackmend handler resume")), line


def assert_resumes(cloud: ControlPlane, servers: Servers, program: Program) -> None:
    """With the right database back, the handlers heal as soon as they are resumed, and not before."""
    assert set(stopped(program)) == set(NAMES)
    assert_heals(cloud, servers["resident"], lambda: program.run("handler", "resume", *NAMES))
    assert stopped(program) == {}
    program.stop()


def test_the_shelved_servers_come_back(cloud: ControlPlane, servers: Servers) -> None:
    for name in ("shelved", "shelved with port"):
        cloud.admin.compute.unshelve_server(servers[name])
    for name in ("shelved", "shelved with port"):
        cloud.wait_for_server(servers[name], timeout=120)
    backup.grow_older(cloud)


# a cell that was restored


@dataclass(frozen=True)
class Past:
    """Two contents of cell1: from before moves, deletions and boots, and from now."""

    old: Backup
    now: Backup
    servers: Servers


@pytest.fixture(scope="module")
def past(cloud: ControlPlane, servers: Servers) -> Iterator[Past]:
    """Servers move, are shelved, are deleted and are made after a dump of cell1."""
    compute = cloud.admin.compute
    plugged = {"networks": [{"uuid": drift.create_network(cloud, "past")}]}
    ids = boot(
        cloud,
        *("migrated", "live-migrated", "deleted", "archived", "offloaded", "offloaded with port"),
        more={"offloaded with port": plugged},
    )
    backup.grow_older(cloud)
    old = backup.take(cloud, "nova_cell1")
    compute.live_migrate_server(ids["live-migrated"], host="compute-2", block_migration="auto")
    compute.migrate_server(ids["migrated"], host="compute-2")
    cloud.wait_for_server(ids["migrated"], "VERIFY_RESIZE", 120)
    compute.confirm_server_resize(ids["migrated"])
    for name in ("offloaded", "offloaded with port"):
        compute.shelve_server(ids[name])
    for name in ("offloaded", "offloaded with port"):
        cloud.wait_for_server(ids[name], "SHELVED_OFFLOADED", 120)
    cloud.delete(ids["archived"])
    cloud.nova_manage("db", "archive_deleted_rows", "--all-cells")
    cloud.delete(ids["deleted"])
    ids |= boot(cloud, "young")
    moved = [ids["migrated"], ids["live-migrated"]]
    wait_until(lambda: all(compute.get_server(one).compute_host == "compute-2" for one in moved), 90, "the moves")
    for server in moved:
        cloud.wait_for_server(server)
    drift.at_rest(cloud)
    backup.grow_older(cloud)
    now = backup.take(cloud, "nova_cell1")
    yield Past(old, now, Servers(ids))
    left = [server for name, server in ids.items() if name not in ("deleted", "archived")]
    together(*(lambda server=server: cloud.delete(server) for server in left))


@every_mode
def test_a_cell_from_before_moves_and_deletions_costs_nothing(
    cloud: ControlPlane, past: Past, servers: Servers, tmp_path: Path, modes: Mapping[str, object]
) -> None:
    past.old.restore(cloud)
    try:
        before = drift.dump(cloud)
        with installation(cloud, tmp_path / "first", modes) as program:
            found = swept(program)
        assert drift.dump(cloud) == before
        assert ("unknown-consumer", past.servers["young"]) in found
        wanted = {"marked-without-allocation", "unmapped-without-record", "wrong-provider"}
        assert wanted <= {problem for problem, _ in found}
        offloaded = {past.servers[name] for name in ("offloaded", "offloaded with port")}
        assert offloaded <= {key for problem, key in found if problem == "allocation-missing"}
        allocated = drift.allocations(cloud)
        assert allocated[past.servers["migrated"]] == allocated[past.servers["live-migrated"]] == {"compute-2"}
        assert not {past.servers["deleted"], past.servers["archived"], *offloaded} & allocated.keys()
        assert past.servers["young"] in allocated
    finally:
        past.now.restore(cloud)
    with installation(cloud, tmp_path / "second", modes) as program:
        assert_heals(cloud, servers["resident"], lambda: program.run("sweep"))


def test_a_journal_recognises_an_older_copy_of_a_cell(
    cloud: ControlPlane, past: Past, servers: Servers, tmp_path: Path
) -> None:
    with installation(cloud, tmp_path / "stackmend", MODES["every handler heals"]) as program:
        assert program.run("sweep", "discover_hosts").returncode == 0
        past.old.restore(cloud)
        try:
            before = drift.dump(cloud)
            program.start()
            wait_until(lambda: set(stopped(program)) == set(NAMES), 60, "the stop of every handler")
            assert_one_message(
                program, "the database cell:cell1 is an older copy of itself", "instances: ", "next id", "highest id"
            )
            assert drift.dump(cloud) == before
        finally:
            past.now.restore(cloud)
        assert_resumes(cloud, servers, program)


# aggregates


@every_mode
def test_members_that_an_operator_gave_an_aggregate_of_placement_stay(
    cloud: ControlPlane, servers: Servers, tmp_path: Path, modes: Mapping[str, object]
) -> None:
    compute, placement = cloud.admin.compute, cloud.admin.placement
    aggregate = compute.get_aggregate(compute.create_aggregate(name="isolated").id)
    theirs = drift.provider(cloud, "compute-2")
    try:
        compute.add_host_to_aggregate(aggregate.id, "compute-1")
        drift.join(placement, drift.provider(cloud, "compute-1"))
        drift.join(placement, theirs, aggregate.uuid)
        with installation(cloud, tmp_path / "stackmend", modes) as program:
            ran = program.run("sweep", "-f", "json")
        print(ran.stdout, ran.stderr)
        assert drift.members(cloud, aggregate.uuid) == {"compute-1", "compute-2"}
        healed = {line["problem"]: line["action"] for line in json.loads(ran.stdout)}
        assert "healed" in healed.values(), "the missing member is added"
        assert ran.returncode == 2, "the other one is reported"
    finally:
        drift.join(placement, theirs)
        compute.remove_host_from_aggregate(aggregate.id, "compute-1")
        compute.delete_aggregate(aggregate.id)
