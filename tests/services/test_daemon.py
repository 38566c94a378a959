"""The daemon beside a real broker and a real Placement: killed, cut off, flooded."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from consumer.journal import history
from consumer.journal.database import Database, open_engine
from handlers.nova.simulation import NovaSimulation
from tests.faults import FaultyProxy
from tests.program import Program
from tests.servers.mariadb import MariaDB
from tests.services.virtual_host import Bus
from tests.waiting import eventually

DELETIONS = 1000


def leak(cloud: NovaSimulation, count: int) -> list[str]:
    """Delete instances whose allocations stay; return their uuids. Their notifications are in ``cloud.take()``."""
    hosts = sorted(cloud.host_mappings())
    for number in range(count // 60):  # a host has room for 64
        hosts.append(f"rack-{number}")
        cloud.add_compute(hosts[-1], "cell1" if number % 2 else "cell2")
        cloud.map_host(hosts[-1])
    uuids = [cloud.boot(hosts[number % len(hosts)]) for number in range(count)]
    cloud.take()
    for uuid in uuids:
        cloud.delete(uuid, leak_allocation=True)
    return uuids


def held(cloud: NovaSimulation, uuids: list[str]) -> set[str]:
    """Return who still holds something."""
    return {uuid for uuid in uuids if cloud.allocation(uuid)}


def test_an_event_is_healed_and_announced(cloud: NovaSimulation, bus: Bus, stackmend: Program) -> None:
    stackmend.start()
    cloud.register_host("compute-9", "cell2")
    (uuid,) = leak(cloud, 1)
    bystander = cloud.boot("compute-1")
    bus.send(cloud.take())
    eventually(lambda: cloud.host_mappings().get("compute-9") == "cell2", 60, "the mapping")
    eventually(lambda: not cloud.allocation(uuid), 60, "the allocation")
    assert cloud.allocation(bystander)
    eventually(lambda: bus.empty, 30, "the queue's end")
    code, _ = stackmend.stop(120)
    assert code == 0
    lines = {line["handler"]: line for line in stackmend.json("history") if line["outcome"] == "healed"}
    assert set(lines) == {"discover_hosts", "audit_allocations"}
    assert all(line["undo"] for line in lines.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_three_times_among_a_thousand_deletions(cloud: NovaSimulation, bus: Bus, stackmend: Program) -> None:
    uuids = leak(cloud, DELETIONS)
    notifications = cloud.take()
    stackmend.start()
    chance = random.Random(7)
    parts = [notifications[start::4] for start in range(4)]
    for part in parts[:3]:
        bus.send(part)
        time.sleep(chance.uniform(2, 9))
        stackmend.kill()
        stackmend.start()
    bus.send(parts[3])
    eventually(lambda: not held(cloud, uuids), 600, "all allocations")
    eventually(lambda: bus.empty, 60, "the queue's end")
    eventually(lambda: nothing_left(stackmend), 120, "work")
    assert_healed_once(stackmend, uuids)


def nothing_left(stackmend: Program) -> bool:
    """Whether nothing waits but the sweeps' timers."""
    return all(row["key"].startswith("sweep:") for row in stackmend.json("work", "list"))


def assert_healed_once(stackmend: Program, uuids: list[str]) -> None:
    """Every deletion has exactly one line with the outcome healed, and no line is open."""
    lines = stackmend.json("history", "--handler", "audit_allocations", "--limit", "100000")
    outcomes = Counter((line["key"], line["outcome"]) for line in lines)
    assert {key for key, outcome in outcomes if outcome == "healed"} == {f"consumer:{uuid}" for uuid in uuids}
    assert {key: number for key, number in outcomes.items() if key[1] == "healed" and number > 1} == {}
    assert not [key for key, outcome in outcomes if outcome == "healing"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_replicas_on_mariadb_one_killed(
    cloud: NovaSimulation,
    bus: Bus,
    options: dict[str, dict[str, object]],
    tmp_path: Path,
    mariadb_url: str,
) -> None:
    uuids = leak(cloud, DELETIONS)
    options["journal"] = {"connection": mariadb_url}
    with Program(tmp_path / "one", options) as one, Program(tmp_path / "two", options) as two:
        assert one.run("db", "upgrade").returncode == 0
        for replica in (one, two):
            replica.start()
        for replica in (one, two):
            eventually(lambda replica=replica: "runs as" in replica.log.read_text(), 60, "the start")  # type: ignore[misc]
        bus.send(cloud.take())
        eventually(lambda: healers(mariadb_url) == 2, 300, "a heal by each of the two")
        assert held(cloud, uuids), "one is killed while there is work"
        one.kill()
        eventually(lambda: not held(cloud, uuids), 600, "all allocations")
        eventually(lambda: bus.empty, 60, "the queue's end")
        eventually(lambda: nothing_left(two), 120, "work")
        assert_healed_once(two, uuids)


def healers(journal_url: str) -> int:
    """Return how many replicas healed something."""
    with closing(Database(open_engine(journal_url))) as journal:
        lines = history.listing(journal, limit=100_000)
        return len({line.replica for line in lines if line.outcome == history.Outcome.HEALED})


def test_a_second_daemon_on_sqlite_is_refused(cloud: NovaSimulation, bus: Bus, stackmend: Program) -> None:
    stackmend.start()
    eventually(lambda: "runs as" in stackmend.log.read_text(), 60, "the start")
    second = stackmend.run("run")
    assert second.returncode == 1
    assert "one replica" in second.stderr


@pytest.mark.timeout(300)
def test_broker_and_placement_go_and_come_back(
    cloud: NovaSimulation, bus: Bus, options: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    # By default the log has the first of several equal errors.
    options["DEFAULT"] = {"default_log_levels": "consumer.engine.reconciler=DEBUG"}
    with Program(tmp_path / "one", options) as stackmend:
        _broker_and_placement_go_and_come_back(cloud, bus, stackmend)


def _broker_and_placement_go_and_come_back(cloud: NovaSimulation, bus: Bus, stackmend: Program) -> None:
    stackmend.start()
    (first,) = leak(cloud, 1)
    bus.send(cloud.take())
    eventually(lambda: not cloud.allocation(first), 60, "the first allocation")
    bus.server.restart()
    (second,) = leak(cloud, 1)
    sent = cloud.take()
    cloud.placement.stop()
    bus.send(sent)
    eventually(lambda: bus.empty, 60, "the message's way into the journal")
    unavailable = re.compile(rf"(\w+) consumer.engine.reconciler .* consumer:{second}: unavailable")
    eventually(lambda: len(unavailable.findall(stackmend.log.read_text())) > 1, 120, "more than one attempt")
    assert unavailable.findall(stackmend.log.read_text())[:2] == ["INFO", "DEBUG"]
    cloud.placement.start()
    eventually(lambda: not cloud.allocation(second), 60, "the second allocation")
    assert stackmend.json("work", "list", "--state", "parked") == []


def test_what_is_healed_is_announced_when_asked_for(
    cloud: NovaSimulation, bus: Bus, options: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    options["engine"] |= {"announce": True, "announce_transport_url": options["nova"]["transport_url"]}
    with Program(tmp_path / "one", options) as one:
        one.start()
        cloud.register_host("compute-9", "cell2")
        bus.send(cloud.take())
        eventually(lambda: bus.read("stackmend_notifications.info") != [], 60, "the announcement")
        (announced,) = bus.read("stackmend_notifications.info")
    assert announced["event_type"] == "stackmend.heal.end"
    assert announced["payload"]["request_id"].startswith("req-")
    assert announced["payload"]["key"] == "host:compute-9"
    assert announced["payload"]["healed"]["undo"].startswith("nova-manage")


@pytest.mark.timeout(300)
def test_the_journals_database_goes_and_comes_back(
    cloud: NovaSimulation,
    bus: Bus,
    options: dict[str, dict[str, object]],
    tmp_path: Path,
    mariadb: MariaDB,
    mariadb_url: str,
) -> None:
    options["journal"] = {"connection": mariadb_url}
    uuids = leak(cloud, 20)
    with Program(tmp_path / "one", options) as one:
        assert one.run("db", "upgrade").returncode == 0
        one.start()
        eventually(lambda: "runs as" in one.log.read_text(), 60, "the start")
        mariadb.stop()
        bus.send(cloud.take())
        eventually(lambda: "messages stay unacknowledged" in one.log.read_text(), 120, "an attempt to store")
        eventually(lambda: one.log.read_text().count("trying again every") > 4, 120, "attempts to claim")
        assert bus.messages() == 20, "nothing may be acknowledged while the journal is away"
        mariadb.start()
        eventually(lambda: not held(cloud, uuids), 120, "all allocations")
        eventually(lambda: bus.empty, 60, "the queue's end")
        assert one.json("work", "list", "--state", "parked") == []
        assert_healed_once(one, uuids)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("method", "status"), [("*", 500), ("PUT", 409), ("*", 503)])
def test_placement_that_answers_with_errors(
    cloud: NovaSimulation, bus: Bus, options: dict[str, dict[str, object]], tmp_path: Path, method: str, status: int
) -> None:
    proxy = FaultyProxy(cloud.placement.url)
    options["openstack"] |= {"endpoint": proxy.url, "placement_endpoint_override": proxy.url}
    uuids = leak(cloud, 10)
    bystander = cloud.boot("compute-1")
    with Program(tmp_path / "one", options) as one:
        one.start()
        proxy.fault = (method, status)
        bus.send(cloud.take())
        eventually(lambda: proxy.answered >= 6, 120, "requests into the fault")
        assert held(cloud, uuids) == set(uuids)
        proxy.fault = None
        eventually(lambda: not held(cloud, uuids), 120, "all allocations")
        eventually(lambda: nothing_left(one), 120, "work")
        assert cloud.allocation(bystander)
        assert_healed_once(one, uuids)
        print(one.log.read_text()[-3000:])
    proxy.close()


def torture(good: list[bytes], count: int) -> list[bytes]:
    """Make messages that cannot be understood out of ones that can."""
    chance = random.Random(11)

    def broken(number: int) -> bytes:
        body = good[number % len(good)]
        envelope = json.loads(body)
        inner = json.loads(envelope["oslo.message"])
        match number % 10:
            case 0:
                return body[: chance.randrange(1, len(body) - 1)]
            case 1:
                return b""
            case 2:
                return bytes(chance.randrange(256) for _ in range(200))
            case 3:
                return json.dumps([envelope]).encode()
            case 4:
                return json.dumps({**envelope, "oslo.version": "3.0"}).encode()
            case 5:
                inner["payload"]["nova_object.version"] = "9.0"
            case 6:
                inner["payload"] = "text"
            case 7:
                inner["event_type"] = 5
            case 8:
                inner["payload"]["nova_object.data"]["uuid"] = ["a", "list"]
            case 9:
                return b"[" * 100_000
        return json.dumps({**envelope, "oslo.message": json.dumps(inner)}).encode()

    return [broken(number) for number in range(count)]


def resident_kb(pid: int) -> int:
    """Return the memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_bad_messages_among_ten_thousand_good_ones(
    cloud: NovaSimulation, bus: Bus, stackmend: Program
) -> None:
    uuids = leak(cloud, 20)
    notifications = [notification.body for notification in cloud.take()]
    good = (notifications * (10_000 // len(notifications) + 1))[:10_000]
    bad = torture(notifications, 10_000)
    huge = json.dumps({"event_type": "instance.delete.end", "payload": "x" * 3_000_000}).encode()
    mixed = [*good, *bad, huge]
    random.Random(3).shuffle(mixed)
    stackmend.start()
    bus.publish(mixed[:4000])
    eventually(lambda: bus.empty, 300, "the first part")
    early = resident_kb(stackmend.pid)
    bus.publish(mixed[4000:])
    eventually(lambda: bus.empty, 300, "the rest")
    late = resident_kb(stackmend.pid)
    eventually(lambda: not held(cloud, uuids), 120, "all allocations")
    listed = stackmend.json("dead", "list", "--limit", "100000")
    assert len(listed) == len(bad) + 1
    assert late < early * 1.5 + 30_000, "memory grows with what was received"
    first = str(listed[0]["id"])
    assert stackmend.run("dead", "show", first).returncode == 0
    assert stackmend.run("dead", "replay", first).returncode == 2
    assert len(stackmend.json("dead", "list", "--limit", "100000")) == len(listed)
    assert stackmend.run("dead", "drop", first).returncode == 0
    assert len(stackmend.json("dead", "list", "--limit", "100000")) == len(listed) - 1
