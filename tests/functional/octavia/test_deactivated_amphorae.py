"""Leftovers are removed completely; objects that only look like leftovers stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from uuid import uuid4

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, InFlight, Key, Refused, Unavailable
from handlers.octavia import queries, removal, tables
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, SPARE, STATE, Port, Server
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError, UnavailableException
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.simulation.cloud import VIPS
from handlers.octavia.simulation.controller import vip_address
from tests.functional.octavia.mending import findings, grow_older, killed_everywhere, mend, problems, world
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

GRACE = 3600.0
OTHERS = "other-project"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing: an object that is not gone at once stays."""
    monkeypatch.setattr(removal, "OCTAVIA_DEADLINE", 0.0)
    monkeypatch.setattr(removal, "SERVER_DEADLINE", 0.0)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def handler(house: House, queue: Queue) -> DeactivatedAmphorae:
    return DeactivatedAmphorae(house.driver, queue, GRACE)


@pytest.fixture
def alone(house: House, queue: Queue) -> DeactivatedAmphorae:
    """Return a handler whose operator knows that no other Octavia uses the project."""
    return DeactivatedAmphorae(house.driver, queue, GRACE, without_rows=True)


def detached(house: House, status: str) -> str:
    """Return an amphora on no load balancer, with server and ports; its load balancer has another one."""
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, status=status, load_balancer_id=None)
    house.octavia.heartbeat(row.id)
    house.octavia.set_balancer(balancer, "ERROR")
    house.driver.failover_load_balancer(balancer)
    return row.id


def named(house: House, amphora: str) -> list[str]:
    """Return the names of servers and ports that contain the id of an amphora."""
    names = [*(server.name for server in house.cloud.servers()), *(port.name for port in house.cloud.ports())]
    return [name for name in names if amphora in name]


def make_port(name: str, project: str = "octavia-project", device: str = "", owner: str = "") -> Port:
    return Port(str(uuid4()), name, project, "vip-net", device, owner, "fa:16:3e:00:00:01", True, 1)


def forget_row(house: House, amphora: str) -> None:
    member, row = tables.amphora_member_port, tables.amphora
    for change in (sa.delete(member).where(member.c.amphora_id == amphora), sa.delete(row).where(row.c.id == amphora)):
        house.database.run(lambda connection, change=change: connection.execute(change))  # type: ignore[misc]


def health(house: House, amphora: str) -> object:
    return house.database.run(partial(queries.health, amphora=amphora))


def test_a_healthy_cloud_has_no_leftovers(house: House, handler: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    failed = house.octavia.add_load_balancer()
    house.driver.failover_load_balancer(failed)
    gone = house.octavia.add_load_balancer()
    house.octavia.delete_load_balancer(gone)
    grow_older(house)
    assert findings(handler) == []
    for server in house.cloud.servers():
        assert list(handler.inspect(Key("server", server.id))) == []
    for port in house.cloud.ports():
        assert list(handler.inspect(Key("port", port.id))) == []
    for group in house.cloud.security_groups():
        assert list(handler.inspect(Key("security-group", group.id))) == []
    for group in house.cloud.server_groups():
        assert list(handler.inspect(Key("server-group", group.id))) == []


@pytest.mark.parametrize("status", ["ERROR", "READY", "PENDING_DELETE", "BOOTING", "ALLOCATED"])
def test_an_amphora_on_no_load_balancer_is_removed_completely(
    house: House, handler: DeactivatedAmphorae, status: str
) -> None:
    amphora = detached(house, status)
    keeps = {server.id for server in house.cloud.servers() if amphora not in server.name}
    grow_older(house)
    assert problems(handler) == [
        "amphora-stuck" if status == "PENDING_DELETE" else "amphora-deactivated",
    ]
    mend(handler)
    assert house.amphora(amphora).status == "DELETED"
    assert named(house, amphora) == []
    assert health(house, amphora) is None
    assert {server.id for server in house.cloud.servers()} == keeps
    assert findings(handler) == []


@pytest.mark.parametrize("status", ["ERROR", "READY", "PENDING_DELETE"])
def test_an_amphora_without_a_server_is_removed(house: House, handler: DeactivatedAmphorae, status: str) -> None:
    amphora = detached(house, status)
    house.cloud.delete_server(house.amphora(amphora).compute_id or "")
    grow_older(house)
    assert problems(handler) == ["amphora-without-server"]
    mend(handler)
    assert house.amphora(amphora).status == "DELETED"
    assert named(house, amphora) == []


@pytest.mark.parametrize("status", ["ERROR", "READY", "PENDING_DELETE"])
def test_a_server_that_nova_keeps_for_a_while_is_deleted_once(
    house: House, handler: DeactivatedAmphorae, status: str
) -> None:
    """Each further deletion would begin Nova's ``reclaim_instance_interval`` anew, so that the server never goes."""
    amphora = detached(house, status)
    grow_older(house)
    house.cloud.weather.soft_deletes = True
    deletions: list[str] = []
    house.cloud.weather.before = deletions.append
    mend(handler)
    assert deletions.count("delete_server") <= 1
    assert house.amphora(amphora).status == "DELETED"
    assert [port.name for port in house.cloud.ports() if amphora in port.name] == []
    grow_older(house)
    assert findings(handler) == []
    assert list(handler.inspect(Key("server", house.amphora(amphora).compute_id or ""))) == []


@pytest.mark.parametrize("status", ["ERROR", "READY"])
@pytest.mark.parametrize("preserved", [0, 1])
def test_a_server_that_another_amphora_names_too_stays(
    make_house: Callable[..., House], queue: Queue, status: str, preserved: int
) -> None:
    """The deletion, or a preservation, would cut off a load balancer that works."""
    house = make_house(maximum_preserved_amphora_count=preserved)
    handler = DeactivatedAmphorae(house.driver, queue, GRACE)
    amphora = detached(house, status)
    (other,) = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(other.id, compute_id=house.amphora(amphora).compute_id)
    grow_older(house)
    before = world(house)
    (found,) = [finding for finding in findings(handler) if finding.key == Key("amphora", amphora)]
    assert not found.healable
    assert other.id in found.refusal
    with pytest.raises(DeleteFailed, match=other.id):
        removal.remove_amphora(house.driver, amphora)
    assert world(house) == before


@pytest.mark.parametrize("status", ["ERROR", "READY", "DELETED"])
@pytest.mark.parametrize("preserved", [0, 1])
def test_a_server_that_an_operator_locked_stays(
    make_house: Callable[..., House], queue: Queue, status: str, preserved: int
) -> None:
    """An administrator's deletion ignores the lock."""
    house = make_house(maximum_preserved_amphora_count=preserved)
    handler = DeactivatedAmphorae(house.driver, queue, GRACE)
    amphora = detached(house, status)
    server = house.amphora(amphora).compute_id or ""
    house.cloud.alter_server(server, locked=True)
    grow_older(house)
    found = [finding for finding in findings(handler) if "locked" in finding.refusal]
    assert [finding.healable for finding in found] == [False]
    mend(handler)
    assert house.cloud.server(server) is not None
    house.cloud.alter_server(server, locked=False)
    assert all(finding.healable for finding in findings(handler))


def test_a_deletion_that_the_api_accepts_but_does_not_do_is_done_here(
    house: House, handler: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Octavia 18 the row becomes PENDING_DELETE, and nothing else happens."""
    amphora = detached(house, "ERROR")
    monkeypatch.setattr(
        house.driver, "delete_amphora", lambda identity: house.octavia.set_amphora(identity, status="PENDING_DELETE")
    )
    grow_older(house)
    mend(handler)
    assert house.amphora(amphora).status == "DELETED"
    assert named(house, amphora) == []


def test_server_and_ports_that_octavia_leaves_are_removed(
    house: House, handler: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deletes no port that the row does not name, and does not wait for Nova."""
    amphora = detached(house, "ERROR")
    monkeypatch.setattr(
        house.driver, "delete_amphora", lambda identity: house.octavia.set_amphora(identity, status="DELETED")
    )
    grow_older(house)
    (finding,) = findings(handler)
    handler.heal(finding)
    assert named(house, amphora) == []


@pytest.mark.parametrize(
    "error",
    [InFlight("2 requests wait"), Unavailable("octavia-worker", "no worker consumes"), Unavailable("broker", "-")],
)
@pytest.mark.parametrize("attached", [True, False])
def test_a_requested_deletion_that_waits_for_a_worker_is_not_done_here(
    house: House, handler: DeactivatedAmphorae, queue: Queue, error: Exception, attached: bool
) -> None:
    """The API marks the row before any worker has the request."""
    if attached:
        (row,) = house.serving(house.octavia.add_load_balancer())
        amphora = row.id
        house.octavia.set_amphora(amphora, status="PENDING_DELETE")
    else:
        amphora = detached(house, "PENDING_DELETE")
    grow_older(house)
    (finding,) = findings(handler)
    before = world(house)
    queue.error = error
    with pytest.raises(type(error)):
        handler.inspect(Key("amphora", amphora))
    with pytest.raises(type(error)):
        handler.heal(finding)
    assert world(house) == before
    queue.error = None
    mend(handler)
    assert named(house, amphora) == []


def test_a_requested_deletion_is_only_reported_where_the_queue_is_unknown(house: House) -> None:
    handler = DeactivatedAmphorae(house.driver, Queue("Octavia has a jobboard"), GRACE)
    waiting, failed = detached(house, "PENDING_DELETE"), detached(house, "ERROR")
    grow_older(house)
    mend(handler)
    (finding,) = findings(handler)
    assert (finding.key.id, finding.healable, finding.refusal) == (waiting, False, "Octavia has a jobboard")
    assert house.amphora(failed).status == "DELETED"


def test_a_deletion_that_the_api_refuses_is_done_here(
    house: House, handler: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    amphora = detached(house, "ERROR")

    def refuse(identity: str) -> None:
        raise UnavailableException(f"amphora:{identity}", "answered 409")

    monkeypatch.setattr(house.driver, "delete_amphora", refuse)
    grow_older(house)
    mend(handler)
    assert house.amphora(amphora).status == "DELETED"
    assert named(house, amphora) == []


def test_a_deletion_waits_for_an_api_that_does_not_answer(house: House, handler: DeactivatedAmphorae) -> None:
    amphora = detached(house, "ERROR")
    grow_older(house)
    (finding,) = findings(handler)
    before = world(house)
    house.cloud.weather.unreachable = {"load-balancer"}
    with pytest.raises(Unavailable):
        handler.heal(finding)
    assert world(house) == before
    house.cloud.weather.unreachable = set()
    mend(handler)
    assert house.amphora(amphora).status == "DELETED"


@pytest.mark.parametrize("lb_status", ["ACTIVE", "ERROR"])
@pytest.mark.parametrize("status", ["PENDING_DELETE", "BOOTING", "PENDING_CREATE"])
def test_an_amphora_that_is_stuck_on_a_load_balancer_is_failed_over(
    house: House, handler: DeactivatedAmphorae, lb_status: str, status: str
) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, status=status)
    house.octavia.set_balancer(balancer, lb_status)
    grow_older(house)
    mend(handler)
    (new,) = house.serving(balancer)
    assert (house.balancer(balancer).status, new.status) == ("ACTIVE", "ALLOCATED")
    assert house.driver.server(new.compute_id or "") is not None
    assert named(house, row.id) == []


def test_an_amphora_on_which_a_flow_may_work_stays(house: House, handler: DeactivatedAmphorae) -> None:
    deleting = detached(house, "PENDING_DELETE")
    balancer = house.octavia.add_load_balancer()
    (replaced,) = house.serving(balancer)
    house.octavia.set_amphora(replaced.id, status="PENDING_DELETE")
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    assert findings(handler) == []
    with pytest.raises(InFlight):
        handler.inspect(Key("amphora", deleting))
    grow_older(house)
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    assert list(handler.inspect(Key("amphora", replaced.id))) == []


def test_an_amphora_that_serves_cannot_be_removed(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    before = world(house)
    with pytest.raises(DeleteFailed):
        Housekeeper(house.driver).remove_amphora([row.id])
    with pytest.raises(NotFoundError):
        Housekeeper(house.driver).remove_amphora([str(uuid4())])
    assert world(house) == before


def test_the_removal_of_several_amphorae_continues_after_a_failure(house: House) -> None:
    gone, serving = detached(house, "ERROR"), house.serving(house.octavia.add_load_balancer())[0]
    with pytest.raises(DeleteFailed):
        Housekeeper(house.driver).remove_amphora([serving.id, gone])
    assert house.amphora(gone).status == "DELETED"
    assert house.amphora(serving.id).status == "ALLOCATED"
    Housekeeper(house.driver).remove_amphora([gone])


def test_the_removal_of_several_amphorae_continues_after_an_error_of_the_database(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = detached(house, "ERROR"), detached(house, "ERROR")
    run, errors = house.database.run, [Unavailable("octavia_database", "the connection is lost")]

    def lost_once(work: Callable[[sa.Connection], object]) -> object:
        if errors:
            raise errors.pop()
        return run(work)

    monkeypatch.setattr(house.database, "run", lost_once)
    with pytest.raises(Unavailable, match="the connection is lost"):
        Housekeeper(house.driver).remove_amphora([first, second])
    assert (house.amphora(first).status, house.amphora(second).status) == ("ERROR", "DELETED")


def test_an_amphora_that_octavia_began_to_delete_is_not_removed(house: House) -> None:
    amphora = detached(house, "PENDING_DELETE")
    before = world(house)
    with pytest.raises(UnavailableException):
        Housekeeper(house.driver).remove_amphora([amphora])
    assert world(house) == before


def test_a_server_that_octavia_did_not_create_for_the_row_stays(house: House, handler: DeactivatedAmphorae) -> None:
    """The row may name a server of another project, or a preserved one."""
    foreign = house.cloud.boot("web-1", project=OTHERS)
    first, second = detached(house, "READY"), detached(house, "READY")
    house.octavia.set_amphora(first, compute_id=foreign.id)
    house.driver.tag_server(house.amphora(second).compute_id or "", PRESERVED)
    grow_older(house)
    for amphora in (first, second):
        (finding,) = handler.inspect(Key("amphora", amphora))
        assert finding.refusal
        with pytest.raises(Refused):
            handler.heal(finding)
        with pytest.raises(DeleteFailed):
            Housekeeper(house.driver).remove_amphora([amphora])
    assert house.driver.server(foreign.id) is not None
    assert house.driver.server(house.amphora(second).compute_id or "") is not None


def test_a_server_without_a_row_goes_with_its_ports(house: House, alone: DeactivatedAmphorae) -> None:
    handler = alone
    house.octavia.add_load_balancer()
    amphora = detached(house, "READY")
    forget_row(house, amphora)
    for port in house.cloud.ports():
        if amphora in port.name:
            house.cloud.add_port(replace(port, address_pairs=()))
    grow_older(house)
    assert "server-without-row" in problems(handler)
    mend(handler)
    assert named(house, amphora) == []
    assert len(house.cloud.servers()) == 2


def test_the_server_of_a_deleted_amphora_is_removed(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, compute_id=None, status="ERROR")
    house.driver.failover_amphora(row.id)
    house.octavia.set_amphora(row.id, compute_id=row.compute_id)
    grow_older(house)
    assert problems(handler) == ["zombie-server"]
    mend(handler)
    assert house.driver.server(row.compute_id or "") is None
    assert [server.id for server in house.cloud.servers()] == [house.serving(balancer)[0].compute_id]


@pytest.mark.parametrize(
    "look_alike",
    [
        {"project_id": OTHERS},
        {"name": "amphora-backup"},
        {"tags": frozenset({PRESERVED})},
        {"tags": frozenset({SPARE})},
        {"metadata": {AMPHORA: "x"}},
        {"metadata": {STATE: "released"}},
        {"task_state": "deleting"},
        {"status": "BUILD"},
    ],
)
def test_a_server_that_only_looks_left_behind_stays(
    house: House, handler: DeactivatedAmphorae, look_alike: dict[str, object]
) -> None:
    house.octavia.add_load_balancer()
    server = house.cloud.boot(f"amphora-{uuid4()}")
    grow_older(house)
    assert problems(handler) == ["server-without-row"]
    house.cloud.alter_server(server.id, **look_alike)
    assert findings(handler) == []
    assert list(handler.inspect(Key("server", server.id))) == []


@pytest.mark.parametrize("status", ["PENDING_CREATE", "BOOTING", "ALLOCATED", "ERROR"])
def test_a_server_that_is_being_built_stays(house: House, handler: DeactivatedAmphorae, status: str) -> None:
    """Octavia writes the row first, and the server's id only when Nova has answered."""
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, compute_id=None, status=status)
    grow_older(house)
    assert [finding for finding in findings(handler) if finding.key.kind == "server"] == []
    assert list(handler.inspect(Key("server", row.compute_id or ""))) == []


def test_a_young_object_stays(house: House, handler: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer()
    grow_older(house)
    amphora = detached(house, "ERROR")
    server = house.cloud.boot(f"amphora-{uuid4()}")
    port = make_port(f"octavia-lb-vrrp-{uuid4()}")
    house.cloud.add_port(port)
    assert findings(handler) == []
    for key in (Key("amphora", amphora), Key("server", server.id), Key("port", port.id)):
        assert list(handler.inspect(key)) == []


@pytest.mark.parametrize("kind", ["vrrp", "member"])
def test_a_leaked_port_goes(house: House, alone: DeactivatedAmphorae, kind: str) -> None:
    handler = alone
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.driver.failover_amphora(row.id)
    of_deleted = make_port(f"octavia-lb-{kind}-{row.id}")
    of_unknown = make_port(f"octavia-lb-{kind}-{uuid4()}", device=str(uuid4()), owner="compute:nova")
    house.cloud.add_port(of_deleted)
    house.cloud.add_port(of_unknown)
    keeps = {port.id for port in house.cloud.ports()} - {of_deleted.id, of_unknown.id}
    grow_older(house)
    assert problems(handler) == ["leaked-port", "leaked-port"]
    mend(handler)
    assert {port.id for port in house.cloud.ports()} == keeps


def test_a_port_that_only_looks_leaked_stays(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    preserved = house.cloud.boot("preserved-amphora-1", tags=frozenset({PRESERVED}))
    used = make_port(f"octavia-lb-vrrp-{uuid4()}")
    ports = [
        used,
        make_port(f"octavia-lb-vrrp-{uuid4()}", project=OTHERS),
        make_port(f"octavia-lb-vrrp-{uuid4()}", device=preserved.id, owner="compute:nova"),
        make_port(f"octavia-lb-vrrp-{row.id}"),
        make_port("octavia-lb-vrrp-mine"),
        make_port(f"octavia-lb-{uuid4()}", project=OTHERS, owner="compute:nova", device=str(uuid4())),
        make_port(f"octavia-lb-{uuid4()}", project=OTHERS),
        make_port(f"octavia-lb-{balancer}", project=OTHERS, owner="Octavia", device=f"lb-{balancer}"),
    ]
    for port in ports:
        house.cloud.add_port(port)
    vip = sa.update(tables.vip).values(port_id=used.id)
    house.database.run(lambda connection: connection.execute(vip))
    grow_older(house)
    assert [finding for finding in findings(handler) if finding.key.id in {port.id for port in ports}] == []
    for port in ports:
        assert list(handler.inspect(Key("port", port.id))) == []


def test_a_port_stays_while_octavia_works_on_the_load_balancer(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.driver.failover_amphora(row.id)
    port = make_port(f"octavia-lb-vrrp-{row.id}")
    house.cloud.add_port(port)
    grow_older(house)
    house.octavia.set_balancer(balancer, "PENDING_DELETE")
    assert list(handler.inspect(Key("port", port.id))) == []
    house.octavia.set_balancer(balancer, "ACTIVE")
    assert len(list(handler.inspect(Key("port", port.id)))) == 1


def test_a_leaked_vip_of_a_tenant_is_reported_and_one_of_octavia_goes(house: House, alone: DeactivatedAmphorae) -> None:
    handler = alone
    house.octavia.add_load_balancer()
    ports = {}
    for project in (OTHERS, house.driver.project()):
        gone = uuid4()
        ports[project] = make_port(f"octavia-lb-{gone}", project=project, owner="Octavia", device=f"lb-{gone}")
        house.cloud.add_port(ports[project])
    grow_older(house)
    found = {finding.key.id: finding for finding in findings(handler)}
    assert {identity: finding.healable for identity, finding in found.items()} == {
        ports[OTHERS].id: False,
        ports[house.driver.project()].id: True,
    }
    with pytest.raises(Refused):
        handler.heal(found[ports[OTHERS].id])
    mend(handler)
    assert house.driver.port(ports[OTHERS].id) is not None
    assert house.driver.port(ports[house.driver.project()].id) is None


def test_leaked_groups_go_and_used_ones_stay(house: House, alone: DeactivatedAmphorae) -> None:
    handler = alone
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    keeps = {group.id for group in (*house.cloud.server_groups(), *house.cloud.security_groups())}
    gone = house.octavia.add_load_balancer()
    house.octavia.delete_load_balancer(gone)
    leaked = {house.cloud.add_server_group(f"octavia-lb-{gone}").id, house.cloud.add_security_group(f"lb-{gone}").id}
    occupied = house.cloud.add_server_group(f"octavia-lb-{uuid4()}")
    house.cloud.boot("preserved-amphora-1", tags=frozenset({PRESERVED}), group=occupied.id)
    in_use = house.cloud.add_security_group(f"lb-{uuid4()}")
    house.cloud.add_port(replace(make_port(f"octavia-lb-{uuid4()}", project=OTHERS), security_groups=(in_use.id,)))
    referred = house.cloud.add_server_group(f"octavia-lb-{uuid4()}")
    change = sa.update(tables.load_balancer).values(server_group_id=referred.id)
    leaked.add(house.cloud.add_security_group(f"lb-{uuid4()}").id)
    other = house.cloud.add_security_group("lb-web")
    house.database.run(lambda connection: connection.execute(change.where(tables.load_balancer.c.id == balancer)))
    keeps |= {occupied.id, in_use.id, referred.id, other.id}
    grow_older(house)
    assert {finding.key.id for finding in findings(handler)} == leaked
    mend(handler)
    assert {group.id for group in (*house.cloud.server_groups(), *house.cloud.security_groups())} == keeps
    assert house.balancer(balancer).status == "ACTIVE"


def test_groups_of_another_octavia_stay_until_its_first_amphora_boots(house: House, alone: DeactivatedAmphorae) -> None:
    """Octavia creates the groups before anything uses them. Nova shows no time of a server group, Neutron one of its own."""
    house.octavia.add_load_balancer()
    creating = str(uuid4())
    server_group = house.cloud.add_server_group(f"octavia-lb-{creating}")
    grow_older(house)
    security_group = house.cloud.add_security_group(f"lb-{creating}")
    assert "may be about to boot an amphora" in only_reports(house, alone, 1)
    assert list(alone.inspect(Key("security-group", security_group.id))) == []
    booted = house.cloud.boot(f"amphora-{uuid4()}", group=server_group.id)
    assert findings(alone) == []
    house.cloud.delete_server(booted.id)
    assert "may be about to boot an amphora" in only_reports(house, alone, 1)


def test_the_objects_of_a_load_balancer_in_creation_stay(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.octavia.set_balancer(balancer, "PENDING_CREATE")
    for row in house.serving(balancer):
        house.octavia.set_amphora(row.id, status="BOOTING", compute_id=None)
    grow_older(house)
    assert findings(handler) == []


def test_orphan_health_goes_and_a_living_one_stays(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    unknown, fresh = str(uuid4()), str(uuid4())
    for amphora in (row.id, unknown):
        house.octavia.heartbeat(amphora)
    grow_older(house)
    house.octavia.heartbeat(fresh)
    assert [(finding.key.id, finding.problem) for finding in findings(handler)] == [(unknown, "orphan-health")]
    mend(handler)
    assert health(house, unknown) is None
    assert health(house, row.id) is not None
    assert health(house, fresh) is not None


def test_nothing_is_removed_by_a_database_without_amphorae(house: House, alone: DeactivatedAmphorae) -> None:
    handler = alone
    server = house.cloud.boot(f"amphora-{uuid4()}")
    group = house.cloud.add_security_group(f"lb-{uuid4()}")
    port = make_port(f"octavia-lb-vrrp-{uuid4()}")
    house.cloud.add_port(port)
    grow_older(house)
    assert findings(handler) == []
    before = world(house)
    for key in (Key("server", server.id), Key("security-group", group.id), Key("port", port.id)):
        (finding,) = handler.inspect(key)
        with pytest.raises(Refused, match="belong together"):
            handler.heal(finding)
    assert world(house) == before


def test_an_empty_listing_is_an_outage(
    house: House, handler: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.octavia.add_load_balancer()
    nothing: list[Server] = []
    monkeypatch.setattr(house.driver, "servers", lambda: nothing)
    with pytest.raises(Unavailable):
        list(handler.sweep())


def test_an_api_that_does_not_answer_proves_nothing(house: House, handler: DeactivatedAmphorae) -> None:
    amphora = detached(house, "READY")
    grow_older(house)
    house.cloud.weather.unreachable = {"compute"}
    with pytest.raises(Unavailable):
        list(handler.sweep())
    with pytest.raises(Unavailable):
        handler.inspect(Key("amphora", amphora))


def test_an_object_that_changed_since_the_proof_stays(house: House, alone: DeactivatedAmphorae) -> None:
    handler = alone
    amphora = detached(house, "READY")
    server = house.cloud.boot(f"amphora-{uuid4()}")
    port = make_port(f"octavia-lb-vrrp-{uuid4()}")
    house.cloud.add_port(port)
    grow_older(house)
    found = findings(handler)
    assert len(found) == 3
    house.octavia.set_amphora(amphora, status="ERROR")
    house.driver.tag_server(server.id, PRESERVED)
    house.driver.disable_port(port)
    before = world(house)
    for finding in found:
        with pytest.raises(Conflict):
            handler.heal(finding)
    assert world(house) == before


def test_a_deletion_that_nova_accepts_but_does_not_do_is_an_error(
    house: House, alone: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = alone
    house.octavia.add_load_balancer()
    house.cloud.boot(f"amphora-{uuid4()}")
    grow_older(house)
    (finding,) = findings(handler)
    with monkeypatch.context() as patched:
        patched.setattr(house.driver, "delete_server", lambda server: None)
        with pytest.raises(DeleteFailed):
            handler.heal(finding)
    assert isinstance(finding, Finding)
    mend(handler)
    assert findings(handler) == []


def test_a_schema_that_is_not_known_is_not_written(house: House, handler: DeactivatedAmphorae) -> None:
    detached(house, "READY")
    grow_older(house)
    (finding,) = findings(handler)
    change = sa.update(tables.alembic_version).values(version_num="unknown")
    house.database.run(lambda connection: connection.execute(change))
    before = world(house)
    with pytest.raises(Refused):
        handler.heal(finding)
    assert world(house) == before


@pytest.mark.slow
@pytest.mark.parametrize("status", ["ERROR", "READY", "PENDING_DELETE"])
def test_killed_at_any_moment_the_removal_is_completed(make_house: Callable[..., House], status: str) -> None:
    def make() -> tuple[House, DeactivatedAmphorae]:
        house = make_house()
        detached(house, status)
        grow_older(house)
        return house, DeactivatedAmphorae(house.driver, Queue(), GRACE)

    killed = 0
    for house, handler, where in killed_everywhere(make):
        grow_older(house)
        mend(handler)
        killed += 1
        (server,) = house.cloud.servers()
        rows = house.database.run(queries.amphorae)
        assert [row.compute_id for row in rows] == [server.id], where
        assert all(rows[0].id in port.name for port in house.cloud.ports() if "-vrrp-" in port.name), where
    assert killed > 10


@pytest.mark.slow
def test_a_failover_is_requested_although_the_handler_is_killed(make_house: Callable[..., House]) -> None:
    def make() -> tuple[House, DeactivatedAmphorae]:
        house = make_house()
        (row,) = house.serving(house.octavia.add_load_balancer())
        house.octavia.set_amphora(row.id, status="PENDING_DELETE")
        grow_older(house)
        return house, DeactivatedAmphorae(house.driver, Queue(), GRACE)

    for house, handler, where in killed_everywhere(make):
        mend(handler)
        (server,) = house.cloud.servers()
        assert [row.compute_id for row in house.database.run(queries.amphorae)] == [server.id], where


def test_inspection_changes_nothing(house: House, handler: DeactivatedAmphorae) -> None:
    detached(house, "ERROR")
    house.cloud.boot(f"amphora-{uuid4()}")
    grow_older(house)
    before = world(house)
    assert findings(handler)
    assert world(house) == before


def foreign(house: House, alive: bool) -> str:
    """Return a server of another Octavia in the same project; that of a living load balancer has a VIP port."""
    amphora, balancer = str(uuid4()), str(uuid4())
    server, address = house.cloud.boot(f"amphora-{amphora}"), vip_address(balancer)
    house.cloud.plug(server.id, VIPS, f"octavia-lb-vrrp-{amphora}", (address,))
    if alive:
        house.cloud.plug(f"lb-{balancer}", VIPS, f"octavia-lb-{balancer}", addresses=(address,))
    return server.id


def only_reports(house: House, handler: DeactivatedAmphorae, count: int) -> str:
    """Assert that a number of findings is reported and nothing is removed; return their refusals."""
    found, before = findings(handler), world(house)
    assert len(found) == count
    for finding in found:
        with pytest.raises(Refused):
            handler.heal(finding)
    assert world(house) == before
    return " ".join(finding.refusal for finding in found)


def test_many_amphorae_of_another_octavia_stay(house: House, alone: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer()
    for _number in range(20):
        foreign(house, alive=False)
    grow_older(house)
    assert "second Octavia" in only_reports(house, alone, 20)


def test_a_few_serving_amphorae_of_another_octavia_stay(house: House, alone: DeactivatedAmphorae) -> None:
    """A load balancer that is newer than a restored database has a VIP port."""
    house.octavia.add_load_balancer()
    servers = [foreign(house, alive=True), foreign(house, alive=True)]
    grow_older(house)
    assert "is alive" in only_reports(house, alone, 2)
    assert all(house.driver.server(server) is not None for server in servers)


def test_nothing_is_removed_in_a_region_without_our_servers(house: House, alone: DeactivatedAmphorae) -> None:
    amphora = detached(house, "READY")
    balancer = house.octavia.add_load_balancer()
    foreign(house, alive=False)
    house.cloud.delete_server(house.amphora(amphora).compute_id or "")
    for row in house.database.run(queries.amphorae):
        house.cloud.delete_server(row.compute_id or "")
    grow_older(house)
    assert "Nova shows 0 of the 2 servers" in only_reports(house, alone, 2)
    assert house.balancer(balancer).status == "ACTIVE"


def test_an_object_that_no_row_names_is_only_reported(house: House, handler: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer()
    gone, vip = str(uuid4()), str(uuid4())
    house.cloud.boot(f"amphora-{uuid4()}")
    house.cloud.add_port(make_port(f"octavia-lb-vrrp-{uuid4()}"))
    house.cloud.add_port(make_port(f"octavia-lb-{vip}", owner="Octavia", device=f"lb-{vip}"))
    house.cloud.add_server_group(f"octavia-lb-{gone}")
    house.cloud.add_security_group(f"lb-{gone}")
    grow_older(house)
    assert "deactivated_amphorae_without_rows" in only_reports(house, handler, 5)


def test_rows_of_another_provider_stay(house: House, handler: DeactivatedAmphorae) -> None:
    """The F5 provider has a row for each device, without anything that the amphora provider writes."""
    house.octavia.add_load_balancer()
    for status in ("READY", "ALLOCATED", "BOOTING"):
        row = {"id": str(uuid4()), "status": status, "cached_zone": "bigip-1", "compute_flavor": "host-1"}
        house.database.run(lambda connection, row=row: connection.execute(sa.insert(tables.amphora).values(**row)))  # type: ignore[misc]
    grow_older(house)
    before = world(house)
    assert findings(handler) == []
    for device in house.database.run(queries.amphorae):
        assert list(handler.inspect(Key("amphora", device.id))) == []
        with pytest.raises(DeleteFailed):
            Housekeeper(house.driver).remove_amphora([device.id])
    assert world(house) == before


def unfinished_row(house: House, balancer: str | None) -> str:
    """Insert the row of an amphora whose worker died right after it had written the row."""
    identity = str(uuid4())
    row = {"id": identity, "status": "PENDING_CREATE", "load_balancer_id": balancer, "cert_busy": False}
    house.database.run(lambda connection: connection.execute(sa.insert(tables.amphora).values(**row)))
    grow_older(house)
    return identity


def test_a_row_without_server_on_a_load_balancer_of_amphorae_is_replaced(
    house: House, handler: DeactivatedAmphorae
) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia.add_load_balancer()
    (gone, _other) = house.serving(balancer)
    house.octavia._delete(gone)
    house.octavia.set_amphora(gone.id, load_balancer_id=None)
    row = unfinished_row(house, balancer)
    assert problems(handler) == ["amphora-stuck"]
    mend(handler)
    assert house.amphora(row).status == "DELETED"
    assert [one.status for one in house.serving(balancer)] == ["ALLOCATED", "ALLOCATED"]


def test_a_row_without_server_on_no_load_balancer_is_only_reported(house: House, handler: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer()
    unfinished_row(house, None)
    assert "nothing shows which provider wrote it" in only_reports(house, handler, 1)


def test_a_row_on_a_load_balancer_of_another_provider_stays(house: House, handler: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer()
    other = str(uuid4())
    values = {
        "id": other,
        "provisioning_status": "ACTIVE",
        "operating_status": "ONLINE",
        "provider": "f5",
        "enabled": True,
    }
    house.database.run(lambda connection: connection.execute(sa.insert(tables.load_balancer).values(**values)))
    row = unfinished_row(house, other)
    assert findings(handler) == []
    assert list(handler.inspect(Key("amphora", row))) == []


def test_an_extra_row_fails_no_healthy_load_balancer_over(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    (serving,) = house.serving(balancer)
    house.octavia._build(balancer, "STANDALONE", None, 0)
    (extra,) = (row for row in house.serving(balancer) if row.id != serving.id)
    house.octavia.set_amphora(extra.id, status="BOOTING")
    grow_older(house)
    assert "would interrupt it" in only_reports(house, handler, 1)


def test_a_load_balancer_whose_deletion_failed_is_not_built_again(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, status="PENDING_DELETE")
    house.octavia.set_balancer(balancer, "ERROR")
    for port in house.cloud.ports():
        if port.device_id == f"lb-{balancer}":
            house.cloud.remove_port(port.id)
    grow_older(house)
    assert "VIP port is gone" in only_reports(house, handler, 1)


def test_a_problem_without_a_heal_is_refused(house: House, handler: DeactivatedAmphorae) -> None:
    detached(house, "READY")
    grow_older(house)
    (finding,) = findings(handler)
    before = world(house)
    with pytest.raises(Refused, match="does not heal"):
        handler.heal(replace(finding, problem="a-new-problem"))
    assert world(house) == before


def begun_image(house: House, amphora: str, **changes: object) -> str:
    """Make an image of an amphora that no recovery completes any more."""
    server = house.cloud.boot(f"amphora-{amphora}")
    image = house.cloud.snapshot(server.id, f"preserved-amphora-{amphora}", {AMPHORA: amphora})
    house.cloud.delete_server(server.id)
    house.cloud.alter_image(image, **changes)
    return image


def test_an_image_that_no_recovery_completes_goes(house: House, handler: DeactivatedAmphorae) -> None:
    balancer = house.octavia.add_load_balancer()
    gone = house.octavia.add_load_balancer()
    (row,) = house.serving(gone)
    house.octavia.delete_load_balancer(gone)
    (serving,) = house.serving(balancer)
    left = begun_image(house, row.id)
    kept = {
        begun_image(house, row.id, protected=True),
        begun_image(house, row.id, tags=frozenset({"amphora"})),
        begun_image(house, row.id, name="mine"),
        begun_image(house, row.id, owner="another-project"),
        begun_image(house, serving.id),
        begun_image(house, str(uuid4())),
    }
    grow_older(house)
    young = begun_image(house, row.id)
    assert problems(handler).count("leaked-image") == 2
    mend(handler)
    assert {image.id for image in house.cloud.images()} == {*kept, young}
    assert left not in kept


def test_an_image_of_a_server_that_is_being_preserved_stays(house: House, handler: DeactivatedAmphorae) -> None:
    house.octavia.add_load_balancer()
    gone = house.octavia.add_load_balancer()
    (row,) = house.serving(gone)
    house.octavia.delete_load_balancer(gone)
    image = begun_image(house, row.id)
    marked = house.cloud.boot(f"preserved-amphora-{row.id}", tags=frozenset({PRESERVED}), metadata={AMPHORA: row.id})
    grow_older(house)
    mend(handler)
    assert [one.id for one in house.cloud.images()] == [image]
    house.cloud.delete_server(marked.id)
    mend(handler)
    assert house.cloud.images() == []
