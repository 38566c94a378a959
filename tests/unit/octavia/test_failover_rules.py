"""The decisions about a failed amphora: tables, row by row, and properties that hold for every reading."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as patience
from hypothesis import strategies as st

from handlers.octavia import records
from handlers.octavia.cloud_objects import AMPHORA, METHOD, PRESERVED, REASON, SINCE, STATE, Group, Image, Port, Server
from handlers.octavia.failover import ending, proof, rules
from handlers.octavia.failover.ending import End, Imaging
from handlers.octavia.failover.heartbeats import Heard
from handlers.octavia.failover.proof import Alive, Failed, OneWitness, Signs, Unclear, Verdict, judge
from handlers.octavia.failover.rules import Case, Request, ServerCase, at_rest, next_step
from handlers.octavia.failover.steps import Nothing, Replaced, Report, Situation, Step, StepName, Wait
from handlers.octavia.failover.table import Row
from handlers.octavia.failover.undo import undo_of
from handlers.octavia.preserved.pool import Preserved, State
from handlers.octavia.rebuild import PAUSES, Remains
from handlers.octavia.settings import HousekeepingSettings

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ID, SERVER, VIP_PORT, BALANCER = "amphora-id", "server-id", "vip-port", "balancer-id"

#: a slow machine is no failure
patient = patience(deadline=None)

CUTTING = {StepName.UNPLUG, StepName.QUARANTINE, StepName.LET_GO}
PRESERVING = CUTTING | {
    StepName.LEASE,
    StepName.MARK,
    StepName.IMAGE,
    StepName.SEAL,
    StepName.STOP,
    StepName.LABEL,
    StepName.SHELVE,
}
REQUESTING = {StepName.LET_GO, StepName.FAILOVER, StepName.REBUILD}

# one reading, to be varied

MANY = Heard(amphorae=20, lately=19)


def port(identity: str = VIP_PORT, name: str = "octavia-lb-vrrp", up: bool = True) -> Port:
    return Port(identity, name, "octavia", "net", SERVER, "compute:nova", "fa:16:3e:00:00:01", up, 1)


def amphora(status: str = "ALLOCATED", server: str | None = SERVER) -> records.Amphora:
    return records.Amphora(ID, BALANCER, server, status, None, None, VIP_PORT, None, None, None, None, 100.0)


def balancer(status: str = "ACTIVE", age: float = 100.0) -> records.LoadBalancer:
    return records.LoadBalancer(BALANCER, "p", "lb", status, "SINGLE", None, "amphora", None, age)


def health(silent: float, busy: bool = False) -> records.Health:
    return records.Health(ID, silent, busy)


def marked(
    server: Server, age: float = 100.0, state: State = State.PRESERVING, number: bool = True, reason: str = ""
) -> Server:
    since = (NOW - timedelta(seconds=age)).isoformat() if number else ""
    metadata = {AMPHORA: ID, SINCE: since, STATE: state, REASON: reason}
    return replace(server, tags=frozenset({PRESERVED}), metadata=metadata)


def image(
    identity: str = "image", status: str = "active", protected: bool = False, tags: frozenset[str] = frozenset()
) -> Image:
    properties = {AMPHORA: ID, SINCE: NOW.isoformat()}
    return Image(identity, "preserved", status, "octavia", protected, "private", tags, properties)


def attempts(number: int) -> Group:
    return Group("sg", f"lb-{BALANCER}", "octavia", tags=frozenset(f"stackmend-{ID}-{at + 1}" for at in range(number)))


def remains(number: int = 0, vip_port: bool = True) -> Remains:
    return Remains(balancer("ERROR"), (ID,), vip_port=vip_port, security_group=attempts(number), server_group=True)


ACTIVE = Server(SERVER, f"amphora-{ID}", "octavia", "ACTIVE", host="compute-1", host_up=True, image="image")
DOWN = replace(ACTIVE, status="SHUTOFF")
S = Situation(amphora=amphora(), now=NOW, server=DOWN, ports=(port(),), balancer=balancer(), heard=MANY)
MARKED = replace(S, server=marked(DOWN))
ROOM = HousekeepingSettings(maximum_preserved_amphora_count=1)
SNAPSHOT = replace(ROOM, preservation_method="snapshot")
BOTH = replace(SNAPSHOT, preservation_keeps="server")
FAILED = Failed("it failed")
OTHER = Preserved("other", replace(marked(DOWN), id="other"), None)
DONE = Preserved("done", replace(marked(DOWN, age=900, state=State.PRESERVED), id="done"), None)


# whether it has failed

JUDGED: dict[str, tuple[Situation, Verdict | type[Verdict]]] = {
    "the row is in ERROR": (
        replace(S, amphora=amphora("ERROR"), health=health(1.0)),
        Failed("Octavia reports it in ERROR", beats=True),
    ),
    "the row names no server": (replace(S, amphora=amphora(server=None), server=None), Failed),
    "Nova does not know the server, and a heartbeat contradicts": (
        replace(S, server=None, health=health(5.0)),
        Unclear,
    ),
    "Nova does not know the server": (replace(S, server=None), Failed),
    "we cut it off": (replace(S, server=marked(ACTIVE), ports=()), Failed("it is cut off")),
    "we cut it off from its VIP": (
        replace(S, server=marked(ACTIVE), ports=(port("other"),), health=health(1.0)),
        Failed("it was cut off from its VIP", beats=True),
    ),
    "the server is down, and a heartbeat contradicts": (replace(S, health=health(5.0)), Unclear),
    "the server is down, and Nova works on it": (replace(S, server=replace(DOWN, task_state="powering-on")), Unclear),
    "the server is down": (replace(S, health=health(13.0)), Failed("its server is SHUTOFF")),
    "under lease, which began after silence was proved": (
        replace(S, server=marked(ACTIVE, reason="no heartbeat has come for 40 s"), health=health(-60.0)),
        Failed,
    ),
    "under lease, and its server is no longer down": (
        replace(S, server=marked(ACTIVE, reason="its server is SHUTOFF"), health=health(-60.0)),
        Unclear,
    ),
    "silent, among few": (replace(S, server=ACTIVE, health=health(41.0), heard=Heard(3, 2)), OneWitness),
    "silent, while heartbeats prove nothing": (
        replace(S, server=ACTIVE, health=health(41.0), unsettled=50.0),
        Unclear,
    ),
    "silent": (replace(S, server=ACTIVE, health=health(41.0)), Failed("no heartbeat has come for 40 s")),
    "Nova stops the server": (replace(S, server=replace(ACTIVE, task_state="deleting")), Unclear),
    "nothing": (replace(S, server=ACTIVE, health=health(39.0)), Alive()),
}


@pytest.mark.parametrize("row", proof.RULES, ids=lambda row: row.name)
def test_every_rule_of_the_proof(row: proof.Rule) -> None:
    situation, expected = JUDGED[row.name]
    signs = Signs(situation, 40.0, 12.0)
    assert next(found.name for found in proof.RULES if found.applies(signs)) == row.name
    found = judge(situation, HousekeepingSettings())
    assert isinstance(found, expected) if isinstance(expected, type) else found == expected


@pytest.mark.parametrize(
    "situation",
    [
        replace(S, server=ACTIVE),
        replace(S, server=ACTIVE, health=health(-4.0)),
        # the clock of the health manager's host is ahead: this is no lease of ours
        replace(S, server=ACTIVE, health=health(-60.0)),
        replace(S, server=marked(ACTIVE), health=health(1.0)),
    ],
)
def test_what_proves_no_failure(situation: Situation) -> None:
    assert judge(situation, HousekeepingSettings()) == Alive()


def test_among_few_a_host_that_is_down_is_the_second_witness() -> None:
    for heard in (Heard(1, 0), Heard(2, 1), Heard(3, 2)):
        silent = replace(S, server=ACTIVE, health=health(41.0), heard=heard)
        assert isinstance(judge(silent, HousekeepingSettings()), OneWitness)
        assert isinstance(judge(replace(silent, server=replace(ACTIVE, host_up=False)), HousekeepingSettings()), Failed)


# the tables of rules


def case(s: Situation = S, settings: HousekeepingSettings = ROOM, failed: Failed = FAILED) -> Case:
    return Case(s, settings, failed)


def server_case(s: Situation, settings: HousekeepingSettings = ROOM) -> ServerCase:
    assert s.server is not None
    return ServerCase(s, settings, FAILED, s.server)


def chosen(table: tuple[Row[Any], ...], given: object) -> str:
    return next((row.name for row in table if row.applies(given)), "")


IN_ERROR = replace(S, balancer=balancer("ERROR"), remains=remains())

FAILED_CASES = {
    "too many have failed": (case(replace(S, failing=("x", "y", "z"))), Report),
    "its host has failed": (case(replace(S, neighbours=("x", "y"))), Report),
    "the health manager acts": (case(replace(S, health=health(70.0, busy=True), balancer=balancer(age=5.0))), Wait),
    "it beats, and a failover was tried": (case(IN_ERROR, failed=Failed("ERROR", beats=True)), Report),
    "no failover may be requested now": (case(replace(IN_ERROR, remains=remains(vip_port=False))), Report),
    "the health manager gave up": (case(replace(S, health=health(70.0, busy=True))), StepName.FAILOVER),
    "its silence proves nothing yet": (
        case(replace(S, unsettled=30.0), failed=Failed("ERROR", perhaps_beats=True)),
        Wait,
    ),
    "not preserved": (case(settings=HousekeepingSettings()), StepName.FAILOVER),
    "": (case(), None),
}
REQUEST_CASES = {
    "another row names its server or port": (Request(replace(S, shared=SERVER), ""), Report),
    "it is one too many": (Request(replace(S, surplus=True), ""), Report),
    "the load balancer is ACTIVE": (Request(S, ""), Nothing),
    "only its owner decides": (Request(replace(IN_ERROR, remains=remains(vip_port=False)), ""), Report),
    "too early": (Request(replace(IN_ERROR, balancer=balancer("ERROR", 14.0)), ""), Wait),
    "": (Request(IN_ERROR, ""), None),
}
PRESERVE_CASES = {
    "Nova works on it": (server_case(replace(S, server=replace(DOWN, task_state="x"))), Wait),
    "in ERROR": (server_case(replace(S, server=replace(DOWN, status="ERROR"))), StepName.STOP),
    "no mark or no number": (server_case(S), StepName.MARK),
    "the place is taken": (server_case(replace(MARKED, others=(DONE,))), StepName.UNMARK),
    "others have no number yet": (
        server_case(
            replace(
                S,
                server=marked(DOWN, age=5.0),
                others=(Preserved("other", marked(replace(DOWN, id="o"), number=False), None),),
            )
        ),
        Wait,
    ),
    "no lease": (server_case(replace(MARKED, health=health(50.0))), StepName.LEASE),
    "": (server_case(replace(MARKED, health=health(-100.0))), None),
}
CUT_OFF_CASES = {
    "no network is left": (server_case(replace(MARKED, ports=())), StepName.LET_GO),
    "Nova neither detaches nor stops": (
        server_case(replace(MARKED, server=replace(marked(ACTIVE, age=900.0), task_state="powering-off"))),
        StepName.FAILOVER,
    ),
    "Nova does not detach from a running server": (
        server_case(replace(MARKED, server=marked(ACTIVE, age=900.0))),
        StepName.STOP,
    ),
    "Nova cannot detach": (server_case(replace(MARKED, server=marked(DOWN, age=900.0))), StepName.QUARANTINE),
    "Nova works on it": (server_case(replace(MARKED, server=replace(marked(DOWN), task_state="x"))), Wait),
    "in ERROR": (server_case(replace(MARKED, server=replace(marked(DOWN), status="ERROR"))), StepName.STOP),
    "connected": (server_case(MARKED), StepName.UNPLUG),
    "detaching": (server_case(replace(MARKED, server=marked(DOWN, state=State.DETACHING))), Wait),
}
GONE = Replaced(amphora=amphora("DELETED"), now=NOW, balancer=None)
SNAPPED = replace(marked(DOWN), metadata={**marked(DOWN).metadata, METHOD: "snapshot"})
LEFT = replace(GONE, amphora=amphora("DELETED", server=None), server=SNAPPED)


def imaging(s: Replaced = LEFT, settings: HousekeepingSettings = SNAPSHOT) -> Imaging:
    assert s.server is not None
    return Imaging(s, settings, s.server)


IMAGE_CASES = {
    "more than one": (imaging(replace(LEFT, images=(image("a"), image("b")))), StepName.DROP_IMAGE),
    "Nova works on the server": (imaging(replace(LEFT, server=replace(SNAPPED, task_state="x"))), Wait),
    "the server is in ERROR": (imaging(replace(LEFT, server=replace(SNAPPED, status="ERROR"))), StepName.STOP),
    "none": (imaging(), StepName.IMAGE),
    "tagged": (imaging(replace(LEFT, images=(image(tags=frozenset({"amphora"})),))), Report),
    "it may become active": (imaging(replace(LEFT, images=(image(status="saving"),))), Wait),
    "an administrator decides": (
        imaging(replace(LEFT, images=(image(status="deactivated", protected=True),))),
        Report,
    ),
    "it will not become active": (imaging(replace(LEFT, images=(image(status="killed"),))), StepName.DROP_IMAGE),
    "not protected": (imaging(replace(LEFT, images=(image(),))), StepName.SEAL),
    "complete, and the server stops": (
        imaging(replace(LEFT, server=replace(SNAPPED, task_state="x"), images=(image(protected=True),)), BOTH),
        Wait,
    ),
    "complete, and the server stays": (imaging(replace(LEFT, images=(image(protected=True),)), BOTH), StepName.STOP),
    "complete, and a row names the server": (
        imaging(replace(LEFT, images=(image(protected=True),), named=frozenset({SERVER}))),
        Report,
    ),
    "complete": (imaging(replace(LEFT, images=(image(protected=True),))), StepName.DROP_SERVER),
}
REPLACED_CASES = {
    "an image that is not wanted": (End(replace(GONE, images=(image(),)), ROOM), StepName.DROP_IMAGE),
    "marks": (End(replace(GONE, server=marked(DOWN)), ROOM), StepName.UNMARK),
    "the pool is over its limit": (
        End(
            replace(GONE, images=(image(protected=True),), others=(DONE,)),
            replace(ROOM, preservation_scheme="cycle"),
        ),
        StepName.TRIM,
    ),
    "DELETED rows": (End(replace(GONE, balancer=balancer(), rows=(ID,)), ROOM), StepName.DETACH),
    "an image": (End(LEFT, SNAPSHOT), StepName.IMAGE),
    "marks, later": (End(replace(GONE, server=replace(marked(DOWN), status="ERROR")), ROOM), Wait),
    "a place in a server group": (
        End(
            replace(
                GONE,
                amphora=amphora("DELETED", server=None),
                server=replace(marked(DOWN, state=State.PRESERVED), groups=("group",)),
            ),
            ROOM,
        ),
        StepName.SHELVE,
    ),
    "nothing": (End(GONE, ROOM), Nothing),
}


@pytest.mark.parametrize(
    ("table", "cases"),
    [
        (rules.FAILED, FAILED_CASES),
        (rules.REQUEST, REQUEST_CASES),
        (rules.PRESERVE, PRESERVE_CASES),
        (ending.IMAGE, IMAGE_CASES),
        (rules.CUT_OFF, CUT_OFF_CASES),
        (ending.REPLACED, REPLACED_CASES),
    ],
    ids=["FAILED", "REQUEST", "PRESERVE", "IMAGE", "CUT_OFF", "REPLACED"],
)
def test_every_row_of_every_table(table: tuple[Row[Any], ...], cases: dict[str, tuple[object, Any]]) -> None:
    assert {row.name for row in table} == set(cases) - {""}
    for name, (given_case, expected) in cases.items():
        assert chosen(table, given_case) == name
        if expected is None:
            continue
        (row,) = [row for row in table if row.name == name]
        decision = row.decision(given_case)
        if isinstance(expected, StepName):
            assert isinstance(decision, Step)
            assert decision.name is expected
        else:
            assert isinstance(decision, expected)


def test_pauses_between_failovers_grow_and_end_with_a_report() -> None:
    for number, pause in enumerate(PAUSES):
        early = replace(IN_ERROR, remains=remains(number), balancer=balancer("ERROR", pause - 1))
        late = replace(IN_ERROR, remains=remains(number), balancer=balancer("ERROR", pause + 1))
        assert isinstance(next_step(early, HousekeepingSettings()), Wait)
        assert isinstance(next_step(late, HousekeepingSettings()), Step)
    assert isinstance(next_step(replace(IN_ERROR, remains=remains(len(PAUSES))), HousekeepingSettings()), Report)


def test_every_step_has_an_undo() -> None:
    for name in StepName:
        assert undo_of(S, Step(name, "", objects=("x",)), str)


# properties

statuses = st.sampled_from(["ALLOCATED", "FAILOVER_STOPPED", "ERROR", "DELETED"])
settings = st.builds(
    HousekeepingSettings,
    maximum_preserved_amphora_count=st.integers(0, 2),
    preservation_scheme=st.sampled_from(["keep", "cycle"]),
    preservation_method=st.sampled_from(["unplug", "snapshot"]),
    preservation_keeps=st.sampled_from(["image", "server"]),
    failover_threshold=st.integers(0, 2),
)
ages = st.sampled_from([0.0, 20.0, 100.0, 2000.0])
image_statuses = st.sampled_from(["queued", "saving", "active", "killed"])


@st.composite
def servers(draw: st.DrawFn, identity: str = SERVER, its_amphora: str = ID) -> Server:
    is_marked = draw(st.booleans())
    since = draw(st.sampled_from(["", (NOW - timedelta(seconds=draw(st.integers(0, 2000)))).isoformat()]))
    method = draw(st.sampled_from(["unplug", "snapshot"]))
    state = draw(st.sampled_from([State.PRESERVING, State.DETACHING, State.PRESERVED]))
    return Server(
        identity,
        draw(st.sampled_from([f"amphora-{its_amphora}", f"preserved-amphora-{its_amphora}"])),
        "octavia",
        draw(st.sampled_from(["ACTIVE", "SHUTOFF", "ERROR", "PAUSED", "SUSPENDED", "SHELVED_OFFLOADED", "BUILD"])),
        task_state=draw(st.sampled_from([None, None, "deleting", "powering-off", "image_uploading"])),
        host=draw(st.sampled_from([None, "compute-1"])),
        host_up=draw(st.sampled_from([None, True, False])),
        image=draw(st.sampled_from([None, "image"])),
        metadata={AMPHORA: its_amphora, SINCE: since, STATE: state, METHOD: method} if is_marked else {},
        tags=frozenset({PRESERVED} if is_marked else ()),
        groups=draw(st.sampled_from([(), ("group",)])),
    )


def _image(identity: str, protected: bool, status: str) -> Image:
    return image(identity, status, protected and status == "active")


@st.composite
def situations(draw: st.DrawFn) -> Situation | Replaced:
    status = draw(statuses)
    forgotten = status in {"ERROR", "DELETED"} and draw(st.booleans())
    server = draw(st.one_of(st.none(), servers()))
    ports = [port(up=draw(st.booleans())), port("m", "octavia-lb-member"), port("n", "")] if server else []
    its_ports = draw(st.lists(st.sampled_from(ports), unique_by=lambda p: p.id)) if ports else ()
    images = draw(st.lists(st.builds(_image, st.sampled_from("ab"), st.booleans(), image_statuses), max_size=2))
    others = draw(st.lists(servers("s2", "amphora-2").map(lambda s: Preserved("amphora-2", s, None)), max_size=2))
    lb_status = draw(st.sampled_from(["ACTIVE", "ERROR"]))
    if status == "DELETED":
        return Replaced(
            amphora=amphora(status, None if forgotten else SERVER),
            now=NOW,
            server=server,
            ports=its_ports,
            images=images,
            others=others,
            balancer=draw(st.sampled_from([None, balancer(lb_status)])),
        )
    silent = draw(st.sampled_from([-120.0, -20.0, -1.0, 1.0, 13.0, 30.0, 50.0]))
    number = draw(st.integers(0, 5))
    return Situation(
        amphora=amphora(status, None if forgotten else SERVER),
        now=NOW,
        server=server,
        ports=its_ports,
        images=images,
        others=others,
        balancer=balancer(lb_status, draw(ages)),
        health=draw(st.sampled_from([None, health(silent), health(silent, busy=True)])),
        failing=draw(st.sampled_from([(), ("x",), ("x", "y")])),
        heard=draw(st.sampled_from([MANY, Heard(1, 0), Heard(20, 5)])),
        unsettled=draw(st.sampled_from([0.0, 30.0])),
        group=attempts(number),
        attempts=number,
        remains=remains(number, draw(st.booleans())) if lb_status == "ERROR" else None,
    )


served = situations().filter(lambda s: isinstance(s, Situation))


@patient
@given(served, settings)
def test_only_a_marked_and_cut_off_amphora_is_let_go(s: Situation, given_settings: HousekeepingSettings) -> None:
    decision = next_step(s, given_settings)
    if isinstance(decision, Step) and decision.name in CUTTING:
        assert s.marked
        assert s.since
        assert given_settings.preserves
        if decision.name is StepName.LET_GO:
            assert not s.connected
            assert s.amphora.compute_id is not None


@patient
@given(served, settings)
def test_an_amphora_that_sends_heartbeats_is_not_cut_off(s: Situation, given_settings: HousekeepingSettings) -> None:
    beats = s.health is not None and -1 <= s.health.silent <= 1
    decision = next_step(s, given_settings)
    if beats and s.connected and isinstance(decision, Step):
        assert decision.name not in CUTTING


@patient
@given(served, settings)
def test_nothing_is_prepared_where_none_is_preserved(s: Situation, given_settings: HousekeepingSettings) -> None:
    decision = next_step(s, replace(given_settings, maximum_preserved_amphora_count=0))
    if isinstance(decision, Step) and s.amphora.compute_id is not None:
        assert decision.name not in PRESERVING


@patient
@given(served, settings)
def test_nothing_is_cut_off_without_a_lease(s: Situation, given_settings: HousekeepingSettings) -> None:
    decision = next_step(s, given_settings)
    if isinstance(decision, Step) and decision.name in CUTTING | {StepName.IMAGE}:
        assert not s.serves or s.health is None or -s.health.silent >= given_settings.preservation_lease / 2


@patient
@given(served, settings)
def test_nothing_is_cut_off_while_no_failover_may_follow(s: Situation, given_settings: HousekeepingSettings) -> None:
    decision = next_step(s, given_settings)
    if isinstance(decision, Step) and decision.name in CUTTING | REQUESTING and s.balancer.status == "ERROR":
        assert s.remains is not None
        assert s.remains.vip_port
        assert s.remains.attempts < len(PAUSES)


@patient
@given(served, settings)
def test_silence_alone_among_few_changes_nothing(s: Situation, given_settings: HousekeepingSettings) -> None:
    server = replace(ACTIVE, tags=frozenset(), metadata={})
    silent = replace(s, amphora=amphora(), server=server, health=health(50.0), heard=Heard(2, 1), images=())
    assert isinstance(next_step(silent, given_settings), Report)


@patient
@given(situations().filter(lambda s: isinstance(s, Replaced)), settings)
def test_a_server_is_deleted_only_with_a_complete_image(s: Replaced, given_settings: HousekeepingSettings) -> None:
    decision = next_step(s, given_settings)
    if isinstance(decision, Step) and decision.name is StepName.DROP_SERVER:
        assert s.marked
        assert s.amphora.compute_id is None
        assert given_settings.preservation_keeps == "image"
        assert s.sealed is not None
        assert s.sealed.status == "active"


@patient
@given(situations(), settings)
def test_every_reading_has_a_decision(s: Situation | Replaced, given_settings: HousekeepingSettings) -> None:
    decision = next_step(s, given_settings)
    if isinstance(decision, Step):
        assert undo_of(s, decision, str)


@pytest.mark.parametrize("status", ["PENDING_UPDATE", "PENDING_DELETE", "PENDING_CREATE"])
def test_a_load_balancer_that_octavia_works_on_is_left_to_it(status: str) -> None:
    assert isinstance(at_rest(S.amphora, balancer(status)), Wait)


def test_load_balancers_of_other_providers_are_ignored() -> None:
    assert at_rest(S.amphora, replace(S.balancer, provider="ovn")) == Nothing()
