"""A day of an operator whose handlers ask first: an audit, approvals, a denial, an exemption, a hold, webhooks, undone heals.

What the operator types is in consent.rst, first-audit.rst and webhooks.rst, or in what stackmend printed.
"""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions

from tests.cloud import drift
from tests.cloud.configuration import merge
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.operator import Shell, example, journal_of_replicas, said
from tests.program import Program
from tests.receiver import Received, Receiver

PATIENCE = 300
#: the handlers of this file that must not find today's drift in their first sweep
SWEEPERS = ("discover_hosts", "audit_allocations", "map_instances")
SECRET = "the operator's secret"


@dataclass(frozen=True)
class Desk:
    """What the operator sits at: a shell, stackmend beside the cloud, and the receiver of its messages."""

    cloud: ControlPlane
    shell: Shell
    program: Program
    receiver: Receiver
    hold_file: Path

    def listed(self, typed: str) -> list[dict[str, Any]]:
        """What a command of stackmend lists, whatever its exit code."""
        done = self.shell(f"stackmend {typed} -f json")
        assert done.stdout, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def swept(self, handler: str, key: str) -> list[dict[str, Any]]:
        """What a sweep makes of an object."""
        return [row for row in self.listed(f"sweep {handler} --key {key}") if row["key"] == key]

    def swept_twice(self, handler: str) -> None:
        """Wait until the daemon has begun and ended a sweep."""
        for _ in range(2):
            since = self._last_sweep(handler)
            wait_until(partial(self._swept_since, handler, since), PATIENCE, f"a sweep of {handler}")

    def _swept_since(self, handler: str, time: str) -> bool:
        return self._last_sweep(handler) != time

    def _last_sweep(self, handler: str) -> str:
        (at,) = [row["last_sweep"] for row in self.listed("handler list") if row["name"] == handler]
        return str(at or "")

    def history(self, key: str, *outcomes: str) -> list[dict[str, Any]]:
        chosen = "".join(f" --outcome {outcome}" for outcome in outcomes)
        return self.listed(f"history --key {key}{chosen}")

    def ask(self, key: str) -> dict[str, Any]:
        """The ask about an object that waits for a decision, as soon as the daemon asks."""

        def waiting() -> list[dict[str, Any]]:
            return [row for row in self.listed("work asks --state waiting") if row["key"] == key]

        (row,) = wait_until(waiting, PATIENCE, f"an ask about {key}; see {self.program.log}")
        return row

    def carry_out(self, plan: str) -> None:
        """Write by hand what a plan prints."""
        for line in plan.splitlines():
            where, write = line.split(": ", 1)
            if where == "placement":
                method, url, body = write.split(" ", 2)
                answer = self.cloud.admin.placement.request(url, method, json=json.loads(body), microversion="1.28")
                assert answer.status_code == 204, answer.text
            else:
                if match := re.match(r"cell:(\w+): (.*)", line):
                    where, write = f"nova_{match[1]}", match[2]
                self.cloud.mariadb.execute(write, where)


@pytest.fixture(scope="module")
def desk(cloud: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with Receiver() as receiver, journal_of_replicas(cloud) as journal:
        ours: dict[str, dict[str, object]] = {
            "journal": journal,
            "audit": {
                "discover_hosts_mode": "ask",
                "audit_allocations_mode": "ask",
                "audit_allocations_interval": 5,
                "map_instances_interval": 0,
            },
            "engine": {"hold_file": folder / "hold", "hold_seconds": 1},
            "webhooks": {"enabled": "chat"},
            "webhook_chat": {
                "url": receiver.url,
                "secret": SECRET,
                "events": "asked, denied, exempt, healed",
            },
        }
        with Program(folder / "stackmend", merge(cloud.account.options(), ours)) as program:
            shell = Shell(cloud, folder / "home", program.conf)
            shell.succeed("stackmend db upgrade")
            yield Desk(cloud, shell, program, receiver, folder / "hold")
            print(program.log.read_text()[-12000:] if program.log.exists() else "")


@pytest.fixture(scope="module")
def server(cloud: ControlPlane) -> Iterator[str]:
    """A server in cell2 that has been there for an hour, so that only a sweep finds what it lacks."""
    booted = cloud.boot(f"server-{uuid.uuid4().hex[:8]}", "compute-3").id
    times = "created_at = created_at - INTERVAL 1 HOUR, updated_at = updated_at - INTERVAL 1 HOUR"
    cloud.mariadb.execute(f"UPDATE instances SET {times} WHERE uuid = '{booted}'", "nova_cell2")
    yield booted
    # where a test failed: Nova deletes no server without a mapping
    cloud.mariadb.execute(
        "INSERT IGNORE INTO nova_api.instance_mappings"
        " (created_at, instance_uuid, cell_id, project_id, user_id, queued_for_delete)"
        " SELECT i.created_at, i.uuid, c.id, i.project_id, i.user_id, 0"
        " FROM nova_cell2.instances i JOIN nova_api.cell_mappings c ON c.name = 'cell2'"
        f" WHERE i.uuid = '{booted}'"
    )
    cloud.delete(booted)


@pytest.fixture(scope="module")
def running(desk: Desk, server: str) -> Desk:
    """The desk beside the running daemon, which has swept once, and to which no notification tells of the server."""
    drift.forget_notifications(desk.cloud)
    desk.program.start()
    wait_until(lambda: "runs as" in desk.program.log.read_text(), 60, "the start of stackmend")

    def swept() -> bool:
        return all(row["last_sweep"] for row in desk.listed("handler list") if row["name"] in SWEEPERS)

    wait_until(swept, PATIENCE, "the first sweeps")
    return desk


@pytest.fixture
def add_host(cloud: ControlPlane) -> Iterator[Callable[[], str]]:
    """Adds a host to cell2; it is deleted after the test."""
    added: list[str] = []

    def add() -> str:
        host = f"compute-{uuid.uuid4().hex[:6]}"
        added.append(host)
        cloud.add_compute(host, "cell2")
        cloud.wait_for_compute(host, timeout=PATIENCE)
        return host

    yield add
    for host in added:
        cloud.discover_hosts()  # Nova deletes no service of a host without a cell
        with suppress(exceptions.SDKException):
            drift.retire(cloud, host)


@pytest.fixture
def leak(cloud: ControlPlane) -> Iterator[str]:
    """A deleted server whose resources came back: Placement got them from a list that was older than the deletion."""
    server = cloud.boot(f"leak-{uuid.uuid4().hex[:8]}", "compute-2").id
    held = drift.allocation(cloud.admin.placement, server)
    cloud.delete(server)
    wait_until(lambda: server not in drift.allocations(cloud), 60, "Nova's release of the resources")
    providers = {provider: one["resources"] for provider, one in held["allocations"].items()}
    drift.allocate(cloud.admin.placement, server, providers, project=held["project_id"])
    yield server
    drift.allocate(cloud.admin.placement, server, {})


def lose_mapping(cloud: ControlPlane, server: str) -> None:
    cloud.mariadb.execute(f"DELETE FROM instance_mappings WHERE instance_uuid = '{server}'", "nova_api")


def is_mapped(cloud: ControlPlane, server: str) -> bool:
    where = f"WHERE instance_uuid = '{server}'"
    return bool(cloud.mariadb.execute(f"SELECT 1 FROM instance_mappings {where}", "nova_api"))


def holds(cloud: ControlPlane, consumer: str) -> tuple[str, str, dict[str, Any]]:
    """What Placement's API says of a consumer: its project and user, and its resources by provider."""
    answer = drift.allocation(cloud.admin.placement, consumer)
    resources = {provider: held["resources"] for provider, held in answer["allocations"].items()}
    return answer["project_id"], answer["user_id"], resources


def approve(desk: Desk, ask: dict[str, Any]) -> None:
    """Approve from another terminal, as consent.rst does."""
    typed = said("consent.rst", "work approve 41 42 --by alice").replace("41 42", str(ask["id"]))
    assert desk.shell.succeed(typed) == "1 ask approved; a new inspection follows\n"


def healed(desk: Desk, key: str) -> dict[str, Any]:
    """The newest heal of an object."""
    *_, last = wait_until(lambda: desk.history(key, "healed"), PATIENCE, f"the heal of {key}")
    return last


def shown(desk: Desk, entry: dict[str, Any]) -> str:
    """The undo of a history entry, as a person reads it."""
    return desk.shell.succeed(f"stackmend history show {entry['id']} -f value -c Undo").removesuffix("\n")


def at_work(desk: Desk, handler: str) -> list[dict[str, Any]]:
    """What the daemon inspects or heals now for a handler."""
    return [row for row in desk.listed("work list --state running") if row["handler"] == handler]


# Before the daemon


@pytest.mark.timeout(1200)
def test_a_first_audit_prints_each_proof_and_the_exact_writes(
    desk: Desk, add_host: Callable[[], str], server: str
) -> None:
    cloud = desk.cloud
    checks = desk.listed("check")
    assert [row for row in checks if row["result"] == "failure"] == []
    host, doomed = add_host(), cloud.boot("doomed", "compute-1").id
    lose_mapping(cloud, server)
    drift.die_while_deleting(cloud, doomed, "compute-1")
    cloud.start_service("placement")
    try:
        before = drift.records(cloud)
        generation = drift.allocation(cloud.admin.placement, doomed)["consumer_generation"]

        audit = desk.shell(f"{said('first-audit.rst', 'sweep --audit').removeprefix('/opt/stackmend/bin/')} -f json")
        assert audit.returncode == 2, audit.stdout + audit.stderr
        found = {row["key"]: row for row in json.loads(audit.stdout)}
        assert drift.records(cloud) == before, "an audit writes nothing"
        assert {key: row["action"] for key, row in found.items()} == {
            f"host:{host}": "found",
            f"instance:{server}": "found",
            f"consumer:{doomed}": "found",
        }
        assert found[f"host:{host}"]["evidence"]["host"] == host
        assert found[f"instance:{server}"]["evidence"]["mapping"]["instance_uuid"] == server
        assert found[f"consumer:{doomed}"]["evidence"]["generation"] == generation

        # by hand, the plans write what they say, and then nothing is left to find
        for row in found.values():
            desk.carry_out(row["plan"])
        assert drift.mapped_hosts(cloud)[host] == "cell2"
        assert is_mapped(cloud, server)
        assert doomed not in drift.allocations(cloud)
        again = desk.shell("stackmend sweep --audit -f json")
        assert (again.returncode, again.stdout.strip()) == (0, "[]"), again.stdout + again.stderr
    finally:
        cloud.start_service("nova-compute-compute-1")


# Approvals and denials


@pytest.mark.timeout(1200)
def test_an_approved_heal_writes_its_plan_and_its_undo_takes_that_back(
    running: Desk, add_host: Callable[[], str]
) -> None:
    cloud, host = running.cloud, add_host()
    key = f"host:{host}"
    ask = running.ask(key)
    before = drift.records(cloud)
    assert host not in drift.mapped_hosts(cloud)

    # the same drift, found again, is no second ask
    assert [row["action"] for row in running.swept("discover_hosts", key)] == ["asked"]
    assert running.ask(key)["id"] == ask["id"]
    assert len(running.history(key, "asked")) == 1

    approve(running, ask)
    wait_until(lambda: host in drift.mapped_hosts(cloud), PATIENCE, "the approved heal")
    entry = healed(running, key)
    assert entry["operator"].startswith("alice (as ")
    assert entry["plan"] == ask["plan"]
    after = drift.records(cloud)

    undo = shown(running, entry)
    assert undo == ask["undo"]
    running.shell.undo(undo)
    assert drift.records(cloud) == before
    running.carry_out(ask["plan"])
    assert drift.records(cloud) == after


@pytest.mark.timeout(1200)
def test_an_undone_heal_of_resources_gives_them_back_and_is_asked_about_again(running: Desk, leak: str) -> None:
    cloud, key = running.cloud, f"consumer:{leak}"
    first = running.ask(key)
    before, held = drift.records(cloud), holds(cloud, leak)
    approve(running, first)
    wait_until(lambda: leak not in drift.allocations(cloud), PATIENCE, "the approved heal")
    entry = healed(running, key)
    after = drift.records(cloud)
    assert after < before, "the heal only takes rows away"
    assert {line for line in before - after if leak not in line} == set()

    running.shell.undo(shown(running, entry))
    assert drift.records(cloud) == before
    assert holds(cloud, leak) == held

    second = running.ask(key)
    assert second["id"] != first["id"], "the approval served one heal"
    running.carry_out(second["plan"])
    assert drift.records(cloud) == after


@pytest.mark.timeout(1200)
def test_a_denied_heal_leaves_the_cloud_as_it_is_until_it_is_approved(running: Desk, leak: str) -> None:
    cloud, key = running.cloud, f"consumer:{leak}"
    ask, held = running.ask(key), drift.allocation(cloud.admin.placement, leak)
    denial = said("consent.rst", "work deny 43").replace("43", str(ask["id"]))
    assert running.shell.succeed(denial) == "1 ask denied\n"
    wait_until(lambda: running.history(key, "denied"), PATIENCE, "the daemon's notice of the denial")
    running.swept_twice("audit_allocations")
    (row,) = running.swept("audit_allocations", key)
    assert row["action"] == "denied"
    assert "the host is under repair" in row["details"]
    assert drift.allocation(cloud.admin.placement, leak) == held
    assert len(running.history(key, "asked")) == 1
    assert len(running.history(key, "denied")) == 1

    again = running.shell(denial)
    assert (again.returncode, again.stdout) == (1, "0 asks denied\n")
    assert again.stderr == f"ask {ask['id']} is not denied: it was denied before\n"

    approve(running, ask)
    wait_until(lambda: leak not in drift.allocations(cloud), PATIENCE, "the heal that was denied first")


@pytest.mark.timeout(1200)
def test_an_ask_that_is_unknown_or_expired_is_not_decided(running: Desk, leak: str) -> None:
    cloud, key = running.cloud, f"consumer:{leak}"
    for typed in ("approve 4711 --by alice", "deny 4711 --reason no --by alice"):
        done = running.shell(f"stackmend work {typed}")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no ask has the id 4711; nothing was done" in done.stderr

    ask = running.ask(key)
    running.shell.succeed("stackmend handler pause audit_allocations --reason 'a meeting' --by alice")
    wait_until(lambda: not at_work(running, "audit_allocations"), PATIENCE, "the end of inspections")
    cloud.mariadb.execute(f"UPDATE ask SET expires_at = expires_at - 1e6 WHERE id = {ask['id']}", "stackmend")
    assert [row["id"] for row in running.listed("work asks --state expired")] == [ask["id"]]
    done = running.shell(f"stackmend work approve {ask['id']} --by alice")
    assert (done.returncode, done.stdout) == (1, "0 asks approved\n")
    assert done.stderr == f"ask {ask['id']} is not approved: it has expired; the next inspection asks again\n"
    running.shell.succeed("stackmend handler resume audit_allocations --by alice")
    again = running.ask(key)
    assert again["id"] != ask["id"]
    assert leak in drift.allocations(cloud)
    done = running.shell(f"stackmend work approve {ask['id']} --by alice")
    assert (done.returncode, leak in drift.allocations(cloud)) == (1, True)


# Exemptions and holds


@pytest.mark.timeout(1200)
def test_an_exempt_host_keeps_its_drift_until_the_exemption_ends(running: Desk, server: str) -> None:
    cloud, key = running.cloud, f"instance:{server}"
    whole = drift.records(cloud)
    running.shell.succeed(said("consent.rst", "exempt add host:compute-7").replace("compute-7", "compute-3"))
    (exemption,) = running.listed("exempt list")
    assert (exemption["scope"], exemption["reason"], exemption["state"]) == ("host:compute-3", "memory test", "valid")
    lose_mapping(cloud, server)
    before = drift.records(cloud)
    for typed in (f"sweep map_instances --key {key}", f"heal map_instances {key}"):
        (row,) = running.listed(typed)
        assert (row["key"], row["action"]) == (key, "exempt")
        assert "exempted host:compute-3 until " in row["details"]
        assert "memory test" in row["details"]
    assert drift.records(cloud) == before
    running.shell.succeed(said("consent.rst", "exempt remove 3").replace("3", str(exemption["id"])))
    assert [row["action"] for row in running.swept("map_instances", key)] == ["healed"]
    assert drift.records(cloud) == whole

    running.shell.undo(shown(running, healed(running, key)))
    assert drift.records(cloud) == before
    assert [row["action"] for row in running.swept("map_instances", key)] == ["healed"]
    assert drift.records(cloud) == whole


@pytest.mark.timeout(1200)
def test_a_held_heal_waits_says_why_and_happens_when_the_hold_is_lifted(
    running: Desk, add_host: Callable[[], str], server: str
) -> None:
    cloud, host = running.cloud, add_host()
    key, held = f"host:{host}", running.hold_file
    ask = running.ask(key)
    running.shell.succeed(f"echo {shlex.quote(f'host:{host} memory test')} > {held}")
    reason = f"host:{host}: memory test ([engine] hold_file)"
    wait_until(lambda: f"heals wait: {reason}" in running.program.log.read_text(), 60, "the hold")
    assert [(row["scope"], row["reason"]) for row in running.listed("hold list")] == [(f"host:{host}", "memory test")]
    approve(running, ask)

    def waiting() -> list[dict[str, Any]]:
        printed = running.shell.succeed(said("consent.rst", "work list -f json | jq"))
        rows = [json.loads(row) for row in printed.replace("\n}\n", "\n}\0").split("\0") if row.strip()]
        return [row for row in rows if row["key"] == key]

    (row,) = wait_until(waiting, PATIENCE, "the work that waits for the end of the hold")
    assert row["error"] == f"on hold: {reason}"
    assert host not in drift.mapped_hosts(cloud)

    # a hold of one host is none of another; an empty file is a hold of all
    lose_mapping(cloud, server)
    running.shell.succeed(f": > {held}")
    (row,) = running.listed(f"heal map_instances instance:{server}")
    assert row["details"] == f"on hold: all: {held} exists ([engine] hold_file)"
    assert not is_mapped(cloud, server)

    running.shell.succeed(f"rm {held}")
    wait_until(lambda: host in drift.mapped_hosts(cloud), PATIENCE, "the heal after the hold")
    assert running.listed("hold list") == []
    assert [row["action"] for row in running.swept("map_instances", f"instance:{server}")] == ["healed"]
    assert is_mapped(cloud, server)


# Webhooks


def test_a_receiver_can_trust_the_messages_about_an_ask_and_its_heal(
    running: Desk, add_host: Callable[[], str]
) -> None:
    page: dict[str, Any] = {}
    exec(example("webhooks.rst", "python", "def is_genuine"), page)
    host = add_host()
    key = f"host:{host}"
    approve(running, running.ask(key))

    def about() -> list[Received]:
        return [one for one in running.receiver.received if one.json["key"] == key]

    wait_until(lambda: len(about()) >= 2, PATIENCE, "the messages")
    asked, done = about()
    for one in (asked, done):
        assert page["is_genuine"](one.headers, one.body, SECRET)
        assert not page["is_genuine"](one.headers, one.body.replace(host.encode(), b"compute-1"), SECRET)
        assert not page["is_genuine"](one.headers, one.body, "another secret")
    assert [one.json["event"] for one in (asked, done)] == ["asked", "healed"]
    assert done.json["line"] == healed(running, key)["id"]
    assert done.json["operator"].startswith("alice (as ")
    assert done.json["plan"] == asked.json["plan"]
    assert drift.mapped_hosts(running.cloud)[host] == "cell2"
    assert running.shell.succeed("stackmend webhook test chat") == "chat: accepted\n"
