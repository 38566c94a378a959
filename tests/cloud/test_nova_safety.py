"""Nothing that is right is touched: each of Nova's tasks in a tight loop, in heal mode, while the cloud lives; and nothing
at all is touched in a cell whose database goes away amid a task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cloud import census, drift
from tests.cloud.configuration import merge
from tests.cloud.control_plane import CELLS, ControlPlane, cell_database, wait_until
from tests.cloud.lifecycle import Lifecycle, Round
from tests.program import LOGS_SWEEPS, Program, only
from tests.relay import Relay
from tests.servers.server import HOST

TASKS = (
    "discover_hosts",
    "sync_aggregates",
    "map_instances",
    "heal_instance_mappings",
    "heal_allocations",
    "audit_allocations",
    "audit_migrations",
    "audit_services",
    "audit_providers",
    "audit_ports",
    "archive_deleted_rows",
    "purge",
)

#: What a task may find and heal while nothing is wrong but what this test lets happen. A host comes, which nobody has mapped
#: yet; nova-manage maps a host first and marks its nodes then; Nova leaves what an evacuated server held of its lost host
#: until the host is back; the rest is rows that are old enough.
MAY_HEAL = {
    "discover_hosts": {"host-unmapped"},
    "audit_allocations": {"left-on-another-node"},
    "archive_deleted_rows": {"rows-to-archive"},
    "purge": {"rows-to-purge"},
}


def installation(cloud: ControlPlane, folder: Path, *tasks: str, **nova: object) -> Program:
    """An installation in which these tasks heal, as often as can be.

    The daemon, not a loop around a one-shot command: it sweeps each second while objects that it saw before still wait for
    their second look, and every notification makes it look in the middle of what Nova is doing. That is more looks, at
    worse moments, than any loop of whole sweeps would give.
    """
    audit = {f"{task}_{option}": value for task in tasks for option, value in (("mode", "heal"), ("interval", 1))}
    options: dict[str, dict[str, object]] = {
        **LOGS_SWEEPS,
        **merge(cloud.account.options(), {"nova": nova}),
        # The log has a line for each sweep.
        "DEFAULT": {"debug": True},
        "audit": {**only(*tasks), **audit, "archive_deleted_rows_after_days": 30},
        "engine": {"poll_seconds": 0.05, "breaker_count": 100_000, "heals_per_hour": 0},
    }
    return Program(folder, options)


@pytest.fixture(scope="module")
def lifecycle(cloud: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lifecycle]:
    """The residents of this file's tests, in a cloud without what earlier tests left undone."""
    lifecycle = Lifecycle(cloud)
    lifecycle.settle()
    with installation(cloud, tmp_path_factory.mktemp("before"), *TASKS[:-1]) as program:
        program.run("sweep")
    yield lifecycle
    lifecycle.leave()


def swept(program: Program, task: str) -> int:
    """How often a task has looked at everything."""
    return program.log.read_text().count(f"{task}: a sweep of ")


def done_with(cloud: ControlPlane, lived: Round, task: str) -> bool:
    """Whether all that is old is where the task puts it."""
    where = "{}.shadow_instances" if task == "archive_deleted_rows" else ""
    wanted = {server: [where.format(cell)] if where else [] for server, cell in lived.long_ago.items()}
    return {server: census.copies(cloud, server) for server in lived.long_ago} == wanted


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", TASKS)
def test_nothing_that_is_right_is_touched_while_the_cloud_lives(
    cloud: ControlPlane, lifecycle: Lifecycle, tmp_path: Path, task: str
) -> None:
    before = census.disorders(cloud)
    with installation(cloud, tmp_path / task, task) as program:
        program.start()
        wait_until(lambda: "runs as" in program.log.read_text(), 60, "the start of stackmend")
        try:
            lived = lifecycle.round()
            sweeps = swept(program, task)
            lifecycle.rest()
            wait_until(lambda: swept(program, task) >= sweeps + 3, 120, "looks at what has come to rest")
            if task == "purge":
                cloud.nova_manage("db", "archive_deleted_rows", "--all-cells")
            if task in ("archive_deleted_rows", "purge"):
                wait_until(lambda: done_with(cloud, lived, task), 60, "the end of what is old")
        finally:
            print(program.log.read_text()[-8000:])
        code, _seconds = program.stop()
        assert code == 0
        assert sweeps >= 2, "it was no loop"
        lines = program.json("history", "--limit", "1000")
    left = census.disorders(cloud) - before
    if task == "purge":
        left -= set().union(*(census.undated(cloud, cell, server) for server, cell in lived.long_ago.items()))
    assert left == set()
    alive = census.live(cloud)
    assert {server: alive.get(server) for server in lifecycle.alive} == lifecycle.alive
    for server in lived.lately:
        assert len(census.copies(cloud, server)) == 1, f"{server} was deleted lately"
    if task == "archive_deleted_rows":
        assert all(census.shadow_rows(cloud, cell, server) for server, cell in lived.long_ago.items())
    elif task != "purge":
        for server, cell in lived.long_ago.items():
            assert census.copies(cloud, server) in ([f"{cell}.instances"], [f"{cell}.shadow_instances"])
    healed = {line["problem"] for line in lines if line["outcome"] == "healed"}
    assert healed <= MAY_HEAL.get(task, set()), lines


@dataclass(frozen=True)
class Outage:
    """A drift of each cell, and the moment at which cell2's database goes away.

    :param drift: makes the drift in both cells, and returns what tells whether it is healed there
    :param words: the database is gone when it is asked this for the ``times``-th time
    :param alone: whether what is wrong in a cell can be proved without the other: an instance might be in both
    """

    task: str
    drift: Callable[[ControlPlane, Lifecycle], dict[str, Callable[[], bool]]]
    words: str
    times: int = 1
    alone: bool = False


def unmapped(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Live instances without a mapping."""
    return _mappings(cloud, lifecycle, "DELETE FROM instance_mappings")


def without_a_cell(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Live instances whose mapping names no cell."""
    return _mappings(cloud, lifecycle, "UPDATE instance_mappings SET cell_id = NULL")


def _mappings(cloud: ControlPlane, lifecycle: Lifecycle, change: str) -> dict[str, Callable[[], bool]]:
    residents = lifecycle.one_of_each_cell()
    for server in residents.values():
        cloud.mariadb.execute(f"{change} WHERE instance_uuid = '{server}'", "nova_api")
    query = (
        "SELECT c.name FROM instance_mappings m JOIN cell_mappings c ON c.id = m.cell_id WHERE m.instance_uuid = '{}'"
    )
    return {
        cell: lambda cell=cell, server=server: cloud.mariadb.execute(query.format(server), "nova_api") == f"{cell}\n"  # type: ignore[misc]
        for cell, server in residents.items()
    }


def without_resources(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Live instances that hold nothing."""
    residents = lifecycle.one_of_each_cell()
    for server in residents.values():
        cloud.mariadb.execute(f"DELETE FROM allocations WHERE consumer_id = '{server}'", "placement")
        cloud.mariadb.execute(f"DELETE FROM consumers WHERE uuid = '{server}'", "placement")  # as Placement does
    return {cell: lambda server=server: _held(cloud, server) == 3 for cell, server in residents.items()}  # type: ignore[misc]


def leaked(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Deleted instances that still hold something."""
    doomed = lifecycle.visitors()
    for server in doomed.values():
        keep = "CREATE TABLE kept_{0} AS SELECT * FROM {0} WHERE {1} = '{2}'"
        back = "INSERT INTO {0} SELECT * FROM kept_{0}; DROP TABLE kept_{0}"
        columns = {"consumers": "uuid", "allocations": "consumer_id"}
        for table, column in columns.items():
            cloud.mariadb.execute(keep.format(table, column, server), "placement")
        cloud.delete(server)
        for table in columns:
            cloud.mariadb.execute(back.format(table), "placement")
    assert all(_held(cloud, server) == 3 for server in doomed.values())
    return {cell: lambda server=server: _held(cloud, server) == 0 for cell, server in doomed.items()}  # type: ignore[misc]


def _held(cloud: ControlPlane, server: str) -> int:
    return int(cloud.mariadb.execute(f"SELECT COUNT(*) FROM allocations WHERE consumer_id = '{server}'", "placement"))


def held_by_a_migration(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Live instances of which a migration that failed holds what they should hold."""
    residents = lifecycle.one_of_each_cell()
    for cell, server in residents.items():
        failed = lifecycle.fail_to_migrate(cell, server)
        for table, column in {"consumers": "uuid", "allocations": "consumer_id"}.items():
            cloud.mariadb.execute(f"UPDATE {table} SET {column} = '{failed}' WHERE {column} = '{server}'", "placement")
        assert (_held(cloud, server), _held(cloud, failed)) == (0, 3)
    lifecycle.rest()
    return {cell: lambda server=server: _held(cloud, server) == 3 for cell, server in residents.items()}  # type: ignore[misc]


def gone_hosts(cloud: ControlPlane, _lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Hosts whose deleted services left mapping and provider, as when Placement was down and someone mapped them again."""
    hosts = {cell: f"compute-gone-{cell}" for cell in CELLS}
    for cell, host in hosts.items():
        cloud.add_compute(host, cell)
    for host in hosts.values():
        cloud.wait_for_compute(host)
    cloud.discover_hosts()
    for cell, host in hosts.items():
        provider = drift.provider(cloud, host)
        drift.retire(cloud, host)
        cloud.mariadb.execute(
            f"INSERT INTO host_mappings (host, cell_id) SELECT '{host}', id FROM cell_mappings WHERE name = '{cell}'",
            "nova_api",
        )
        drift.add_provider(cloud, host, provider)
        for table in ("services", "compute_nodes"):
            older = "deleted_at = deleted_at - INTERVAL 1 HOUR"
            cloud.mariadb.execute(f"UPDATE {table} SET {older} WHERE host = '{host}'", f"nova_{cell}")
    return {
        cell: lambda host=host: host not in drift.mapped_hosts(cloud) and not drift.provider(cloud, host)  # type: ignore[misc]
        for cell, host in hosts.items()
    }


def occupied_ports(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Ports of users that say they are of instances which have been deleted."""
    network = cloud.admin.network
    doomed = lifecycle.visitors(networks=[{"uuid": drift.create_network(cloud, "occupied")}])
    ports = {}
    for cell, server in doomed.items():
        [made] = network.ports(device_id=server)
        ports[cell] = network.create_port(network_id=made.network_id).id
        cloud.delete(server)
        lifecycle.age(cell, server)
        cloud.mariadb.execute(
            f"UPDATE ports SET device_id = '{server}', device_owner = 'compute:nova' WHERE id = '{ports[cell]}'",
            "neutron",
        )
    return {cell: lambda port=port: not network.get_port(port).device_id for cell, port in ports.items()}  # type: ignore[misc]


def deleted_long_ago(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """Rows that were deleted three months ago."""
    doomed = lifecycle.visitors()
    for cell, server in doomed.items():
        cloud.delete(server)
        lifecycle.age(cell, server)
    return {
        cell: lambda cell=cell, server=server: census.copies(cloud, server) == [f"{cell}.shadow_instances"]  # type: ignore[misc]
        for cell, server in doomed.items()
    }


def archived_long_ago(cloud: ControlPlane, lifecycle: Lifecycle) -> dict[str, Callable[[], bool]]:
    """The same, archived since."""
    archived = deleted_long_ago(cloud, lifecycle)
    cloud.nova_manage("db", "archive_deleted_rows", "--all-cells")
    assert all(done() for done in archived.values())
    gone = "SELECT COUNT(*) FROM shadow_instances WHERE deleted_at < utc_timestamp() - INTERVAL 80 DAY"
    return {cell: lambda cell=cell: cloud.mariadb.execute(gone, f"nova_{cell}") == "0\n" for cell in archived}  # type: ignore[misc]


OUTAGES = (
    Outage("map_instances", unmapped, "FROM instances", 2),
    Outage("heal_instance_mappings", without_a_cell, "FROM instances", 2),
    Outage("heal_allocations", without_resources, "FROM instances", 3),
    Outage("audit_allocations", leaked, "FROM instances", 2),
    Outage("audit_migrations", held_by_a_migration, "FROM instances", 3),
    Outage("audit_services", gone_hosts, "FROM services", 2),
    Outage("audit_ports", occupied_ports, "FROM instances", 2),
    Outage("archive_deleted_rows", deleted_long_ago, "INSERT INTO shadow_", alone=True),
    Outage("purge", archived_long_ago, "DELETE FROM shadow_", alone=True),
)


@pytest.fixture
def relay(cloud: ControlPlane) -> Iterator[Relay]:
    """The line from stackmend to cell2's database.

    Of the cells' templates only cell2's takes host and port from the one who reads it: Nova fills them from its own file and
    reaches the server, stackmend from its option and reaches this line.
    """
    change = "UPDATE cell_mappings SET database_connection = '{}' WHERE name = '{}'"
    address = f"{HOST}:{cloud.mariadb.port}"
    for cell in ("cell0", "cell1"):
        cloud.mariadb.execute(change.format(cell_database(f"nova_{cell}", address), cell), "nova_api")
    line = Relay(HOST, cloud.mariadb.port)
    yield line
    line.close()
    for cell in ("cell0", "cell1"):
        cloud.mariadb.execute(change.format(cell_database(f"nova_{cell}"), cell), "nova_api")


def at_rest(cloud: ControlPlane, cell: str) -> dict[str, str]:
    """Return a cell's fingerprint when Nova, which writes on after it calls a server deleted, has left it alone for a while."""
    seen = [census.fingerprint(cloud, cell)]

    def unchanged() -> bool:
        time.sleep(3)
        seen.append(census.fingerprint(cloud, cell))
        return seen[-1] == seen[-2]

    wait_until(unchanged, 120, f"{cell} at rest")
    return seen[-1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.task)
def test_a_cell_whose_database_goes_away_is_not_changed(
    cloud: ControlPlane, lifecycle: Lifecycle, relay: Relay, tmp_path: Path, outage: Outage
) -> None:
    base = cloud.account.url("nova_cell0", relay.port)
    with installation(cloud, tmp_path / "stackmend", outage.task, database_connection=base) as program:
        healed = outage.drift(cloud, lifecycle)
        before = at_rest(cloud, "cell2")
        relay.cut_at(outage.words, outage.times)
        ran = program.run("sweep", outage.task, "-f", "json")
        assert relay.is_cut, f"the database was not asked that often: {ran.stdout}{ran.stderr}"
        assert ran.returncode in (1, 2), ran.stdout + ran.stderr
        assert census.fingerprint(cloud, "cell2") == before, ran.stdout
        assert healed["cell1"]() is outage.alone, ran.stdout
        relay.mend()
        ran = program.run("sweep", outage.task, "-f", "json")
        assert {cell: done() for cell, done in healed.items()} == {"cell1": True, "cell2": True}, ran.stdout
        assert ran.returncode == 0, ran.stdout + ran.stderr
