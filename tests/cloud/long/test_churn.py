"""A cloud that lives while one of its cell databases is restored and put right again, with every handler in mode heal.

Three writers boot, resize, revert, migrate, evacuate, shelve, unshelve, rebuild, delete and archive, and attach and detach
volumes. Now and then they pause, and cell1 is restored from a dump that was taken while they worked, minutes before. Handlers
see that copy for a while, once with a journal that remembers the cell and once without. Then the right content comes back,
and the writers go on.

The writers pause while the copy is in place: Nova would write into it, and those rows would be lost with the copy.

Run it with ``STACKMEND_CHURN_MINUTES=60 tox -e cloud -- -s tests/cloud/long``.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumer import plugins
from tests.cloud import backup, census, drift
from tests.cloud.backup import Backup
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.long.writers import LARGE, Expected, Gate, Ledger, Writer
from tests.program import LOGS_SWEEPS, Program

MINUTES = float(os.environ.get("STACKMEND_CHURN_MINUTES", "0"))
NAMES = tuple(handler.name for handler in plugins.handlers() if handler.group == "audit")
#: Seconds between two restored copies, and for which writers work before the next one.
STRETCH = 600.0
#: Heals of drift that the writers leave: rows that are old enough, and an allocation of an evacuated server on its lost host.
LEFT = {"rows-to-archive", "rows-to-purge", "left-on-another-node"}
#: Heals of what the copy shows: a deleted server that is archived by now gets a mapping that is marked as deleted. It goes
#: again with the right content. :func:`records` shows that no mapping of a live server changes.
PASSING = {"instance-unmapped", "instances-unmapped", "mapping-left-behind", "mappings-left-behind"}
MAY_HEAL = LEFT | PASSING
#: Hosts besides those of every test: a second one in cell2, and one that is only there to be lost.
MORE, SPARE = "compute-4", "compute-spare"


@pytest.fixture
def hosts(cloud: ControlPlane) -> Iterator[None]:
    """Both cells have two hosts, and cell1 has one that takes no servers."""
    compute = cloud.admin.compute
    cells = {MORE: "cell2", SPARE: "cell1"}
    # Nova resizes no unshelved server to a flavor with a smaller disk than it was shelved with.
    compute.create_flavor(id=LARGE, name=LARGE, ram=256, vcpus=2, disk=1)
    for host, cell in cells.items():
        cloud.add_compute(host, cell)
    for host in cells:
        cloud.wait_for_compute(host)
    cloud.discover_hosts()
    [service] = compute.services(binary="nova-compute", host=SPARE)
    compute.disable_service(service, disabled_reason="only here to be lost")
    yield
    compute.delete_flavor(LARGE)
    for host in cells:
        drift.retire(cloud, host)


@pytest.fixture
def volumes(cloud: ControlPlane) -> None:
    """Cinder makes volumes."""
    cloud.start_volumes()
    services = cloud.admin.block_storage.services
    wait_until(
        lambda: any(one.binary == "cinder-volume" and one.state == "up" for one in services()), 90, "cinder-volume"
    )


def options(cloud: ControlPlane) -> dict[str, dict[str, object]]:
    """Every handler heals and sweeps often; neither budget nor breaker hides a wrong heal."""
    audit: dict[str, object] = {f"{name}_mode": "heal" for name in NAMES}
    audit |= {f"{name}_interval": 20 for name in NAMES}
    audit |= {"archive_deleted_rows_after_days": 30, "purge_after_days": 60}
    engine: dict[str, object] = {"breaker_count": 100_000, "heals_per_hour": 0}
    return {**LOGS_SWEEPS, **cloud.account.options(), "audit": audit, "engine": engine}


class Installation:
    """stackmend with a daemon, and with a journal that can be lost."""

    def __init__(self, cloud: ControlPlane, folder: Path) -> None:
        self.program = Program(folder, options(cloud))
        self.heals: Counter[tuple[str, str]] = Counter()
        self.healed: dict[str, str] = {}

    def start(self) -> None:
        """Start the daemon and let it sweep."""
        self.program.start()
        self.let_it_sweep()

    def forget(self) -> None:
        """Stop the daemon and lose its journal."""
        self.program.stop()
        self.count()
        for file in self.program.folder.glob("journal.sqlite*"):
            file.unlink()

    def count(self) -> None:
        """Remember the heals that the journal knows."""
        for line in self.program.json("history", "--outcome", "healed", "--limit", "100000"):
            self.heals[line["handler"], line["problem"]] += 1
            self.healed[line["key"]] = line["problem"]

    def let_it_sweep(self, times: int = 2) -> None:
        """Wait until every handler has swept so often from now on."""
        wanted = {name: self._sweeps(name) + times for name in NAMES}
        wait_until(lambda: all(self._sweeps(name) >= many for name, many in wanted.items()), 300, "the sweeps")

    def _sweeps(self, name: str) -> int:
        return self.program.log.read_text().count(f"{name}: a sweep of ") if self.program.log.exists() else 0

    def audit(self) -> list[dict[str, str]]:
        """Return the drift that an audit finds; stopped handlers sweep in no other way."""
        found: list[dict[str, str]] = self.program.json("sweep", "--audit")
        return found

    def stopped(self) -> set[str]:
        """Return the handlers that are stopped."""
        listed = self.program.json("handler", "list")
        return {line["name"] for line in listed if line["state"].startswith("stopped")} & set(NAMES)


def records(cloud: ControlPlane) -> dict[str, set[str]]:
    """Return what must not change while no writer works, whatever a cell's database holds."""
    queries = {
        "allocations": "SELECT consumer_id, resource_provider_id, resource_class_id, used FROM placement.allocations",
        "live mappings": "SELECT instance_uuid, cell_id FROM nova_api.instance_mappings WHERE queued_for_delete = 0",
        "build requests": "SELECT instance_uuid FROM nova_api.build_requests",
        "request specifications": "SELECT s.instance_uuid FROM nova_api.request_specs s JOIN nova_api.instance_mappings m"
        " ON m.instance_uuid = s.instance_uuid WHERE m.queued_for_delete = 0",
        "host mappings": "SELECT host, cell_id FROM nova_api.host_mappings",
        "providers": "SELECT uuid, name FROM placement.resource_providers",
        "attachments": "SELECT id, volume_id, instance_uuid, attach_status FROM cinder.volume_attachment WHERE deleted = 0",
        "volumes": "SELECT id, status FROM cinder.volumes WHERE deleted = 0",
        "memberships": "SELECT resource_provider_id, aggregate_id FROM placement.resource_provider_aggregates",
    }
    return {name: set(cloud.mariadb.execute(query).splitlines()) for name, query in queries.items()}


@contextmanager
def restored(cloud: ControlPlane, old: Backup) -> Iterator[None]:
    """A cell is an older copy of itself, all of it old enough to be judged; then it is right again.

    The right content is minutes old too, so Nova takes its compute services for down until they report again.
    """
    drift.at_rest(cloud)
    up = services_up(cloud)
    now = backup.take(cloud, old.database)
    old.restore(cloud)
    backup.grow_older(cloud)
    before = records(cloud)
    try:
        yield
        assert records(cloud) == before
    finally:
        now.restore(cloud)
    wait_until(lambda: services_up(cloud) >= up, 120, "reports of the compute services")


def services_up(cloud: ControlPlane) -> set[str]:
    """Return the hosts whose compute service is up."""
    return {one.host for one in cloud.admin.compute.services(binary="nova-compute") if one.state == "up"}


@pytest.mark.skipif(not MINUTES, reason="set STACKMEND_CHURN_MINUTES, for example to 60")
@pytest.mark.timeout(60 * MINUTES + 1800)
def test_nothing_is_lost_while_a_cell_is_restored(
    cloud: ControlPlane, hosts: None, volumes: None, tmp_path: Path
) -> None:
    gate, first, second = Gate(), Gate(), Gate()
    writers = [
        Writer(cloud, gate, first, "cell1", ("compute-1", "compute-2"), seed=1),
        Writer(cloud, gate, first, "cell1", ("compute-1", "compute-2"), seed=2, spare=SPARE),
        Writer(cloud, gate, second, "cell2", ("compute-3", MORE), seed=3),
    ]
    lasting = bystander(cloud)
    before = census.disorders(cloud)
    stackmend = Installation(cloud, tmp_path / "stackmend")
    end = time.monotonic() + 60 * MINUTES
    restorations = 0
    with stackmend.program:
        stackmend.start()
        for writer in writers:
            writer.start()
        try:
            while time.monotonic() < end or restorations < 2:
                # Rows that the copy knows and the cloud does not, and the other way round
                doomed = cloud.boot("doomed", host="compute-1").id
                old = backup.take(cloud, "nova_cell1")
                cloud.delete(doomed)
                writers[0].ledger.deleted.add(doomed)
                young = cloud.boot("young", host="compute-2").id
                work(writers, min(STRETCH, 60 * MINUTES / 4))
                with gate.closed():
                    raise_errors(writers)
                    restore(cloud, stackmend, old, remembers=restorations % 2 == 0)
                    assert young in census.live(cloud)
                    assert doomed not in census.live(cloud)
                restorations += 1
                cloud.delete(young)
                writers[0].ledger.deleted.add(young)
        finally:
            for writer in writers:
                writer.stop()
            print(stackmend.program.log.read_text()[-20000:])
        raise_errors(writers)
        drift.at_rest(cloud)
        backup.grow_older(cloud)
        stackmend.let_it_sweep(3)
        stackmend.program.stop()
        stackmend.count()
        audit = stackmend.program.run("sweep", "--audit", "-f", "json")
    ledgers = [lasting, *(writer.ledger for writer in writers)]
    print_figures(ledgers, stackmend, restorations)
    assert_as_expected(cloud, ledgers)
    aged = {server: cell for ledger in ledgers for server, cell in ledger.aged.items()}
    undated = set().union(*(census.undated(cloud, cell, server) for server, cell in aged.items()))
    assert census.disorders(cloud) - before - undated == set()
    assert (audit.returncode, audit.stdout.strip()) == (0, "[]"), audit.stdout + audit.stderr
    assert {problem for _, problem in stackmend.heals} <= MAY_HEAL, stackmend.healed
    for ledger in ledgers:
        for server, expected in ledger.servers.items():
            if expected.status == "SHELVED_OFFLOADED":
                cloud.admin.compute.unshelve_server(server)
                cloud.wait_for_server(server, timeout=120)
            cloud.delete(server)
    assert drift.allocations(cloud) == {}


def bystander(cloud: ControlPlane) -> Ledger:
    """Return a server with a volume that no writer changes.

    A handler leaves Cinder alone if it has no volume that Nova's mappings name. A copy may name only volumes that are deleted
    by now, and this one.
    """
    server, storage = cloud.boot("lasting", host="compute-1").id, cloud.admin.block_storage
    volume = storage.create_volume(size=1).id
    wait_until(lambda: storage.get_volume(volume).status == "available", 60, "a volume")
    cloud.admin.compute.create_volume_attachment(server, volume_id=volume)
    wait_until(lambda: storage.get_volume(volume).status == "in-use", 60, "an attached volume")
    return Ledger({server: Expected(volume=volume)})


def work(writers: list[Writer], seconds: float) -> None:
    """Let the writers work, unless one of them fails."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not any(writer.error for writer in writers):
        time.sleep(1)


def raise_errors(writers: list[Writer]) -> None:
    """Fail with the errors of the writers."""
    if errors := [writer.error for writer in writers if writer.error]:
        raise BaseExceptionGroup("writers failed", errors)


def restore(cloud: ControlPlane, stackmend: Installation, old: Backup, *, remembers: bool) -> None:
    """Let handlers see an older copy of a cell, and the right content again."""
    if not remembers:
        stackmend.forget()
    with restored(cloud, old):
        if remembers:
            wait_until(lambda: stackmend.stopped() == set(NAMES), 120, "the stop of every handler")
            assert stackmend.audit(), "an audit of the copy reports nothing"
        else:
            stackmend.start()
            assert stackmend.stopped() == set()
    resumed = stackmend.program.run("handler", "resume", *NAMES)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    print(f"restored and put right, {'with' if remembers else 'without'} memory", flush=True)


def print_figures(ledgers: list[Ledger], stackmend: Installation, restorations: int) -> None:
    """Print what was done."""
    steps = sum((ledger.steps for ledger in ledgers), Counter[str]())
    print("steps:", json.dumps(dict(steps.most_common())))
    print("servers deleted:", sum(len(ledger.deleted) for ledger in ledgers))
    print("servers alive:", sum(len(ledger.servers) for ledger in ledgers))
    print("restorations:", restorations)
    print("heals:", {" ".join(key): count for key, count in stackmend.heals.items()})


def assert_as_expected(cloud: ControlPlane, ledgers: list[Ledger]) -> None:
    """Each server is there once, as its writer left it; those that were deleted are not."""
    found: Mapping[str, tuple[str, str]] = {
        server.id: (server.status, server.flavor["original_name"])
        for server in cloud.admin.compute.servers(all_projects=True)
    }
    expected = {server: (one.status, one.flavor) for ledger in ledgers for server, one in ledger.servers.items()}
    assert found == expected
    attached = {server: one.volume for ledger in ledgers for server, one in ledger.servers.items() if one.volume}
    query = "SELECT instance_uuid, volume_id FROM volume_attachment WHERE deleted = 0"
    rows = sorted(tuple(line.split()) for line in cloud.mariadb.execute(query, "cinder").splitlines())
    assert rows == sorted(attached.items())
    volumes = {volume.id: volume.status for volume in cloud.admin.block_storage.volumes(all_projects=True)}
    assert volumes == dict.fromkeys(attached.values(), "in-use")
    specified = set(cloud.mariadb.execute("SELECT instance_uuid FROM request_specs", "nova_api").split())
    assert expected.keys() <= specified
