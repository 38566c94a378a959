"""Each reason for which an object stays, is reported or is removed, as a row of a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.octavia import records
from handlers.octavia.cloud_objects import PRESERVED, Group, Port, Server
from handlers.octavia.leftovers import rules
from handlers.octavia.leftovers.rules import Leftover, Place, Problem, Scope
from handlers.octavia.pairing import Pairing, mismatch, pairing

AMPHORA = "5b0f2d3c-8a55-4a0a-9a33-3b1d9d2a7c11"
BALANCER = "0c4b6f0e-4f0e-4c1c-8f0d-5d5b7a1e2f33"
GRACE, OLD, YOUNG = 100.0, 200.0, 50.0
OCTAVIA, OTHERS = "octavia", "others"

SCOPE = Scope(OCTAVIA, GRACE)
ALONE = Scope(OCTAVIA, GRACE, without_rows=True)
WRONG = Scope(OCTAVIA, GRACE, without_rows=True, mismatch="the wrong region")

ROW = records.Amphora(
    AMPHORA, None, "server", "DELETED", None, "192.0.2.1", None, None, None, None, None, age=OLD, cert_expiration=None
)
LB = records.LoadBalancer(BALANCER, OTHERS, None, "DELETED", "SINGLE", None, "amphora", None, OLD)
SERVER = Server("server", f"amphora-{AMPHORA}", OCTAVIA, "ACTIVE", age=OLD)
PORT = Port("port", f"octavia-lb-vrrp-{AMPHORA}", OCTAVIA, "net", "", "", "", True, 1, age=OLD)
VIP = replace(PORT, name=f"octavia-lb-{BALANCER}", device_id=f"lb-{BALANCER}", device_owner="Octavia")
SECURITY_GROUP = Group("group", f"lb-{BALANCER}", OCTAVIA, age=OLD)
SERVER_GROUP = Group("group", f"octavia-lb-{BALANCER}", OCTAVIA)

#: verdicts: nothing is found; the problem may be healed; it is only reported for a reason with these words
STAYS = ""
NO_ROW, MISMATCH = "no row of Octavia names it", "the wrong region"


def verdict(found: Leftover | None) -> tuple[str, str]:
    return (found.problem, found.refusal) if found else ("", "")


def check(found: Leftover | None, problem: str, words: str = "") -> None:
    seen, refusal = verdict(found)
    assert seen == problem
    assert words in refusal if words else not refusal


@pytest.mark.parametrize(
    ("scope", "row", "place", "server", "problem", "words"),
    [
        (SCOPE, replace(ROW, status="DELETED"), None, SERVER, STAYS, ""),
        (SCOPE, replace(ROW, status="READY", age=YOUNG), None, SERVER, STAYS, ""),
        (SCOPE, replace(ROW, status="READY", compute_id=None, lb_network_ip=None), None, None, STAYS, ""),
        (SCOPE, replace(ROW, status="READY"), None, SERVER, Problem.DEACTIVATED, ""),
        (WRONG, replace(ROW, status="READY"), None, SERVER, Problem.DEACTIVATED, MISMATCH),
        (SCOPE, replace(ROW, status="READY"), None, replace(SERVER, name="web"), Problem.DEACTIVATED, "not created by"),
        (
            SCOPE,
            replace(ROW, status="READY"),
            None,
            replace(SERVER, project_id=OTHERS),
            Problem.DEACTIVATED,
            "not created",
        ),
        (
            SCOPE,
            replace(ROW, status="READY"),
            None,
            replace(SERVER, tags=frozenset({PRESERVED})),
            Problem.DEACTIVATED,
            "is preserved",
        ),
        (SCOPE, replace(ROW, status="ERROR"), None, None, Problem.WITHOUT_SERVER, ""),
        (WRONG, replace(ROW, status="ERROR"), None, None, Problem.WITHOUT_SERVER, MISMATCH),
        (SCOPE, replace(ROW, status="PENDING_DELETE"), None, SERVER, Problem.STUCK, ""),
        (WRONG, replace(ROW, status="PENDING_DELETE"), None, SERVER, Problem.STUCK, MISMATCH),
    ],
)
def test_a_row_on_no_load_balancer(
    scope: Scope, row: records.Amphora, place: Place | None, server: Server | None, problem: str, words: str
) -> None:
    check(rules.row(scope, row, place, server), problem, words)


@pytest.mark.parametrize(
    ("status", "lb_status", "serving", "obstacle", "problem", "words"),
    [
        ("ALLOCATED", "ACTIVE", 1, "", STAYS, ""),
        ("ERROR", "ERROR", 0, "", STAYS, ""),
        ("PENDING_DELETE", "PENDING_UPDATE", 0, "", STAYS, ""),
        ("PENDING_DELETE", "ACTIVE", 0, "", Problem.STUCK, ""),
        ("PENDING_DELETE", "ACTIVE", 1, "", Problem.STUCK, "would interrupt it"),
        ("BOOTING", "ACTIVE", 0, "", Problem.STUCK, ""),
        ("BOOTING", "ACTIVE", 1, "", Problem.STUCK, "would interrupt it"),
        ("BOOTING", "ERROR", 1, "", Problem.STUCK, ""),
        ("BOOTING", "ERROR", 0, "its VIP port is gone", Problem.STUCK, "its VIP port is gone"),
    ],
)
def test_a_row_on_a_load_balancer(
    status: str, lb_status: str, serving: int, obstacle: str, problem: str, words: str
) -> None:
    place = Place(replace(LB, status=lb_status), serving, obstacle)
    row = replace(ROW, status=status, load_balancer_id=BALANCER)
    check(rules.row(SCOPE, row, place, SERVER), problem, words)


def test_a_row_on_a_load_balancer_that_has_no_row_stays() -> None:
    check(rules.row(SCOPE, replace(ROW, status="BOOTING", load_balancer_id=BALANCER), None, SERVER), STAYS)


@pytest.mark.parametrize(
    ("row", "silent", "problem"),
    [
        (None, OLD, Problem.HEALTH),
        (ROW, OLD, Problem.HEALTH),
        (replace(ROW, status="ALLOCATED"), OLD, STAYS),
        (None, YOUNG, STAYS),
        (None, None, STAYS),
    ],
)
def test_a_heartbeat_record(row: records.Amphora | None, silent: float | None, problem: str) -> None:
    beat = None if silent is None else records.Health(AMPHORA, silent, busy=False)
    check(rules.health(WRONG, AMPHORA, row, beat), problem)


@pytest.mark.parametrize(
    ("scope", "server", "rows", "working", "rival", "problem", "words"),
    [
        (ALONE, replace(SERVER, name="amphora-backup"), (), False, "", STAYS, ""),
        (ALONE, replace(SERVER, project_id=OTHERS), (), False, "", STAYS, ""),
        (ALONE, replace(SERVER, tags=frozenset({PRESERVED})), (), False, "", STAYS, ""),
        (ALONE, replace(SERVER, age=YOUNG), (), False, "", STAYS, ""),
        (ALONE, replace(SERVER, task_state="deleting"), (), False, "", STAYS, ""),
        (ALONE, replace(SERVER, status="BUILD"), (), False, "", STAYS, ""),
        (ALONE, SERVER, (ROW,), True, "", STAYS, ""),
        (ALONE, SERVER, (replace(ROW, status="ALLOCATED"),), False, "", STAYS, ""),
        (ALONE, SERVER, (ROW, replace(ROW, age=YOUNG)), False, "", STAYS, ""),
        (SCOPE, SERVER, (ROW,), False, "", Problem.ZOMBIE, ""),
        (WRONG, SERVER, (ROW,), False, "", Problem.ZOMBIE, MISMATCH),
        (SCOPE, SERVER, (), False, "", Problem.WITHOUT_ROW, NO_ROW),
        (ALONE, SERVER, (), False, "", Problem.WITHOUT_ROW, ""),
        (ALONE, SERVER, (), False, "vip-port", Problem.WITHOUT_ROW, "is alive"),
        (WRONG, SERVER, (), False, "", Problem.WITHOUT_ROW, MISMATCH),
    ],
)
def test_a_server(
    scope: Scope,
    server: Server,
    rows: tuple[records.Amphora, ...],
    working: bool,
    rival: str,
    problem: str,
    words: str,
) -> None:
    check(rules.server(scope, server, rows, working, rival), problem, words)


@pytest.mark.parametrize(
    ("scope", "port", "row", "working", "attached", "used", "problem", "words"),
    [
        (ALONE, replace(PORT, name="octavia-lb-vrrp-mine"), None, False, False, False, STAYS, ""),
        (ALONE, replace(PORT, project_id=OTHERS), None, False, False, False, STAYS, ""),
        (ALONE, replace(PORT, age=YOUNG), None, False, False, False, STAYS, ""),
        (ALONE, PORT, ROW, True, False, False, STAYS, ""),
        (ALONE, PORT, ROW, False, True, False, STAYS, ""),
        (ALONE, PORT, ROW, False, False, True, STAYS, ""),
        (ALONE, PORT, replace(ROW, status="ERROR"), False, False, False, STAYS, ""),
        (ALONE, PORT, replace(ROW, age=YOUNG), False, False, False, STAYS, ""),
        (SCOPE, PORT, ROW, False, False, False, Problem.PORT, ""),
        (WRONG, PORT, ROW, False, False, False, Problem.PORT, MISMATCH),
        (SCOPE, PORT, None, False, False, False, Problem.PORT, NO_ROW),
        (ALONE, PORT, None, False, False, False, Problem.PORT, ""),
    ],
)
def test_a_port_of_an_amphora(
    scope: Scope,
    port: Port,
    row: records.Amphora | None,
    working: bool,
    attached: bool,
    used: bool,
    problem: str,
    words: str,
) -> None:
    check(rules.amphora_port(scope, port, row, working, attached, used), problem, words)


@pytest.mark.parametrize(
    ("scope", "port", "balancer", "used", "problem", "words"),
    [
        (ALONE, replace(VIP, name="web"), None, False, STAYS, ""),
        (ALONE, replace(VIP, device_owner="compute:nova"), None, False, STAYS, ""),
        (ALONE, replace(VIP, device_id="web"), None, False, STAYS, ""),
        (ALONE, replace(VIP, age=YOUNG), None, False, STAYS, ""),
        (ALONE, VIP, None, True, STAYS, ""),
        (ALONE, VIP, replace(LB, status="ACTIVE"), False, STAYS, ""),
        (ALONE, VIP, replace(LB, age=YOUNG), False, STAYS, ""),
        (SCOPE, VIP, LB, False, Problem.VIP_PORT, ""),
        (WRONG, VIP, LB, False, Problem.VIP_PORT, MISMATCH),
        (SCOPE, replace(VIP, project_id=OTHERS), LB, False, Problem.VIP_PORT, "it belongs to project others"),
        (SCOPE, VIP, None, False, Problem.VIP_PORT, NO_ROW),
        (ALONE, VIP, None, False, Problem.VIP_PORT, ""),
    ],
)
def test_a_vip_port(
    scope: Scope, port: Port, balancer: records.LoadBalancer | None, used: bool, problem: str, words: str
) -> None:
    check(rules.balancer_port(scope, port, balancer, used), problem, words)


@pytest.mark.parametrize(
    ("scope", "group", "balancer", "used", "problem", "words"),
    [
        (ALONE, replace(SECURITY_GROUP, name="lb-web"), None, False, STAYS, ""),
        (ALONE, replace(SECURITY_GROUP, project_id=OTHERS), None, False, STAYS, ""),
        (ALONE, replace(SECURITY_GROUP, age=YOUNG), None, False, STAYS, ""),
        (ALONE, SECURITY_GROUP, None, True, STAYS, ""),
        (ALONE, SECURITY_GROUP, replace(LB, status="PENDING_CREATE"), False, STAYS, ""),
        (SCOPE, SECURITY_GROUP, LB, False, Problem.SECURITY_GROUP, ""),
        (WRONG, SECURITY_GROUP, LB, False, Problem.SECURITY_GROUP, MISMATCH),
        (SCOPE, SECURITY_GROUP, None, False, Problem.SECURITY_GROUP, NO_ROW),
        (ALONE, SECURITY_GROUP, None, False, Problem.SECURITY_GROUP, ""),
    ],
)
def test_a_security_group(
    scope: Scope, group: Group, balancer: records.LoadBalancer | None, used: bool, problem: str, words: str
) -> None:
    check(rules.security_group(scope, group, balancer, used), problem, words)


@pytest.mark.parametrize(
    ("scope", "group", "balancer", "used", "problem", "words"),
    [
        (ALONE, replace(SERVER_GROUP, name="web"), None, False, STAYS, ""),
        (ALONE, replace(SERVER_GROUP, project_id=OTHERS), None, False, STAYS, ""),
        (ALONE, replace(SERVER_GROUP, members=("server",)), None, False, STAYS, ""),
        (ALONE, SERVER_GROUP, None, True, STAYS, ""),
        (ALONE, SERVER_GROUP, replace(LB, status="ERROR"), False, STAYS, ""),
        (SCOPE, SERVER_GROUP, LB, False, Problem.SERVER_GROUP, ""),
        (WRONG, SERVER_GROUP, LB, False, Problem.SERVER_GROUP, MISMATCH),
        (SCOPE, SERVER_GROUP, None, False, Problem.SERVER_GROUP, NO_ROW),
        (ALONE, SERVER_GROUP, None, False, Problem.SERVER_GROUP, "Nova shows no time of its creation"),
        (WRONG, SERVER_GROUP, None, False, Problem.SERVER_GROUP, MISMATCH),
    ],
)
def test_a_server_group(
    scope: Scope, group: Group, balancer: records.LoadBalancer | None, used: bool, problem: str, words: str
) -> None:
    check(rules.server_group(scope, group, balancer, used), problem, words)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Pairing(named=0, seen=0, strangers=1), "belong together"),
        (Pairing(named=10, seen=8, strangers=0), "Nova shows 8 of the 10 servers"),
        (Pairing(named=10, seen=9, strangers=3), "3 servers with the names of amphorae have no row"),
        (Pairing(named=10, seen=9, strangers=2), ""),
        (Pairing(named=100, seen=90, strangers=5), ""),
        (Pairing(named=100, seen=100, strangers=6), "second Octavia"),
    ],
)
def test_database_and_cloud_belong_together(found: Pairing, words: str) -> None:
    reason = mismatch(found)
    assert words in reason if words else reason == ""


def test_the_pairing_counts_servers_of_serving_amphorae_and_servers_without_rows() -> None:
    other = "11111111-8a55-4a0a-9a33-3b1d9d2a7c11"
    serving = replace(ROW, status="ALLOCATED", load_balancer_id=BALANCER)
    lost = replace(serving, id="lost", compute_id="lost")
    unused = replace(ROW, id="unused", status="ERROR", compute_id="unused")
    zombie = replace(ROW, id=other, compute_id=None)
    servers = [
        SERVER,
        replace(SERVER, id="zombie", name=f"amphora-{other}"),
        replace(SERVER, id="stranger", name="amphora-22222222-8a55-4a0a-9a33-3b1d9d2a7c11"),
        replace(
            SERVER, id="preserved", name="amphora-33333333-8a55-4a0a-9a33-3b1d9d2a7c11", tags=frozenset({PRESERVED})
        ),
        replace(SERVER, id="web", name="web"),
    ]
    assert pairing(servers, [serving, lost, unused], [zombie]) == Pairing(named=2, seen=1, strangers=1)
