"""Three daemons that share a journal on PostgreSQL, whose primary aborts, or dies and leaves its work to a standby."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from consumer.journal import hinting, migrations
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import JournalUnavailable
from handlers.nova.simulation import NovaSimulation
from tests.faults import FaultyProxy
from tests.functional.journal.contract import hint
from tests.program import Program
from tests.servers.postgresql import Pair, PostgreSQL
from tests.services.conftest import bus, cloud, options
from tests.services.test_daemon import assert_healed_once, held, leak, nothing_left
from tests.services.virtual_host import Bus
from tests.waiting import eventually

__all__ = ["bus", "cloud", "options"]

DELETIONS = 60


@pytest.fixture
def pair(servers_folder: Path) -> Iterator[Pair]:
    made = Pair(servers_folder / f"pair-{uuid.uuid4().hex[:8]}")
    made.primary.folder.parent.mkdir(mode=0o755)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextmanager
def three_daemons(folder: Path, options: Mapping[str, Mapping[str, object]], url: str) -> Iterator[list[Program]]:
    """Run three replicas that share a journal; at the end, all of them live and none logged a traceback."""
    given = {**options, "journal": {"connection": url}}
    with ExitStack() as stack:
        daemons = [stack.enter_context(Program(folder / str(number), given)) for number in range(3)]
        upgraded = daemons[0].run("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            eventually(lambda daemon=daemon: "runs as" in daemon.log.read_text(), 240, "the start")  # type: ignore[misc]
        yield daemons
        assert all(daemon.running for daemon in daemons)
        for daemon in daemons:
            assert "Traceback" not in daemon.log.read_text()


def assert_nothing_lost(cloud: NovaSimulation, bus: Bus, daemon: Program, uuids: list[str]) -> None:
    """Wait for the end of all work; nothing of it was lost or done twice."""
    eventually(lambda: not held(cloud, uuids), 400, "all allocations")
    eventually(lambda: bus.messages() == 0, 120, "the end of the queue")
    eventually(lambda: nothing_left(daemon), 300, "the end of the work")
    assert daemon.json("work", "list", "--state", "parked") == []
    assert_healed_once(daemon, uuids)


@pytest.fixture
def placement(cloud: NovaSimulation, options: dict[str, dict[str, object]]) -> Iterator[FaultyProxy]:
    """Yield the way of the daemons to Placement, which can hold their writes."""
    proxy = FaultyProxy(cloud.placement.url)
    options["openstack"] |= {"endpoint": proxy.url, "placement_endpoint_override": proxy.url}
    yield proxy
    proxy.writing.set()
    proxy.close()


@pytest.mark.timeout(1500)
def test_the_primary_aborts_and_restarts_while_three_daemons_heal(
    postgresql: PostgreSQL,
    postgresql_url: str,
    cloud: NovaSimulation,
    bus: Bus,
    options: dict[str, dict[str, object]],
    placement: FaultyProxy,
    tmp_path: Path,
) -> None:
    uuids = leak(cloud, DELETIONS)
    notifications = cloud.take()
    with three_daemons(tmp_path, options, postgresql_url) as daemons:
        for number in range(3):
            placement.writing.clear()
            before = placement.held
            bus.send(notifications[number::3])
            eventually(lambda before=before: placement.held > before, 300, "a heal")  # type: ignore[misc]
            postgresql.stop_immediately()
            if number % 2:
                # the heal ends while its result cannot be stored
                placement.writing.set()
            postgresql.start()
            placement.writing.set()
        assert_nothing_lost(cloud, bus, daemons[0], uuids)


@pytest.mark.timeout(1500)
def test_the_standby_is_promoted_while_three_daemons_heal(
    pair: Pair,
    cloud: NovaSimulation,
    bus: Bus,
    options: dict[str, dict[str, object]],
    placement: FaultyProxy,
    tmp_path: Path,
) -> None:
    uuids = leak(cloud, DELETIONS)
    notifications = cloud.take()
    pair.primary.create_database("journal")
    with three_daemons(tmp_path, options, pair.url("journal")) as daemons:
        bus.send(notifications[: DELETIONS // 3])
        eventually(lambda: len(held(cloud, uuids)) < DELETIONS, 300, "heals on the primary")
        placement.writing.clear()
        before = placement.held
        bus.send(notifications[DELETIONS // 3 : 2 * DELETIONS // 3])
        eventually(lambda: placement.held > before, 300, "a heal")
        pair.primary.kill()
        placement.writing.set()
        bus.send(notifications[2 * DELETIONS // 3 :])
        pair.standby.promote()
        assert_nothing_lost(cloud, bus, daemons[0], uuids)


def test_a_standby_that_is_not_promoted_yet_is_an_outage(pair: Pair) -> None:
    """A URL without ``target_session_attrs``, or the address of a load balancer, can lead to the standby."""
    pair.primary.create_database("journal")
    with closing(Database(open_engine(pair.primary.url("journal")))) as primary:
        migrations.upgrade(primary)
    caught_up = "SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()"
    eventually(lambda: pair.standby.execute(caught_up).strip() == "t", 60, "the standby")
    eventually(lambda: "work" in pair.standby.execute("SELECT relname FROM pg_class", "journal"), 60, "its tables")
    with closing(Database(open_engine(pair.standby.url("journal"), pool_size=1))) as journal:

        def number(query: str) -> int:
            return int(journal.read(lambda connection: connection.execute(text(query)).scalar_one()))

        first = number("SELECT pg_backend_pid()")
        with pytest.raises(JournalUnavailable, match="read-only"):
            hinting.enqueue(journal, [hint("a")])
        assert number("SELECT pg_backend_pid()") != first, "a new connection may reach another server"
        pair.primary.kill()
        pair.standby.promote()
        hinting.enqueue(journal, [hint("a")])
        assert number("SELECT count(*) FROM work") == 1
