"""What the decision never does, whatever the world looks like."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import settings as patience
from hypothesis import strategies as st

from handlers.octavia import records
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, SINCE, STATE, Image, Port, Server
from handlers.octavia.failover.proof import Alive, Failed, judge
from handlers.octavia.failover.rules import at_rest, next_step
from handlers.octavia.failover.steps import Nothing, Situation, Step, Wait
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ID, SERVER, VIP_PORT, BALANCER = "amphora-id", "server-id", "vip-port", "balancer-id"

#: a slow machine is no failure
patient = patience(deadline=None)

#: steps by which an amphora is cut off, or its server taken from Octavia
CUTTING = {"unplug", "quarantine", "let-go"}
KEEPING = CUTTING | {"fence", "mark", "image", "seal", "stop", "label", "shelve"}

statuses = st.sampled_from(["ALLOCATED", "FAILOVER_STOPPED", "ERROR", "DELETED"])
settings = st.builds(
    HousekeepingSettings,
    maximum_preserved_amphora_count=st.integers(0, 2),
    preservation_scheme=st.sampled_from(["keep", "cycle"]),
    preservation_method=st.sampled_from(["unplug", "snapshot"]),
    preservation_keeps=st.sampled_from(["image", "server"]),
    failover_threshold=st.integers(0, 2),
)


@st.composite
def servers(draw: st.DrawFn, identity: str = SERVER, amphora: str = ID) -> Server:
    marked = draw(st.booleans())
    since = draw(st.sampled_from(["", (NOW - timedelta(seconds=draw(st.integers(0, 2000)))).isoformat()]))
    state = draw(st.sampled_from([pool.PRESERVING, pool.DETACHING, pool.KEPT]))
    return Server(
        identity,
        draw(st.sampled_from([f"amphora-{amphora}", f"preserved-amphora-{amphora}"])),
        "octavia",
        draw(st.sampled_from(["ACTIVE", "SHUTOFF", "ERROR", "PAUSED", "SUSPENDED", "SHELVED_OFFLOADED", "BUILD"])),
        task_state=draw(st.sampled_from([None, None, "deleting", "powering-off", "image_uploading"])),
        host=draw(st.sampled_from([None, "compute-1"])),
        host_up=draw(st.sampled_from([None, True, False])),
        image=draw(st.sampled_from([None, "image"])),
        metadata={AMPHORA: amphora, SINCE: since, STATE: state} if marked else {},
        tags=frozenset({PRESERVED} if marked else ()),
        groups=draw(st.sampled_from([(), ("group",)])),
    )


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    def port(identity: str, name: str) -> Port:
        up = draw(st.booleans())
        return Port(identity, name, "octavia", "net", SERVER, "compute:nova", "fa:16:3e:00:00:01", up, 1)

    status = draw(statuses)
    forgotten = status in {"ERROR", "DELETED"} and draw(st.booleans())
    amphora = records.Amphora(
        ID, BALANCER, None if forgotten else SERVER, status, None, None, VIP_PORT, None, None, None, None, 100.0
    )
    lb_status = draw(st.sampled_from(["ACTIVE", "ERROR"]))
    balancer = records.LoadBalancer(BALANCER, "p", "lb", lb_status, "SINGLE", None, "amphora", None, draw(ages))
    silent = draw(st.sampled_from([-120.0, -20.0, -1.0, 1.0, 13.0, 30.0, 50.0]))
    health = draw(st.sampled_from([None, records.Health(ID, silent, False), records.Health(ID, silent, True)]))
    server = draw(st.one_of(st.none(), servers()))
    ports = [port(VIP_PORT, "octavia-lb-vrrp"), port("m", "octavia-lb-member"), port("n", "")] if server else []
    images = draw(st.lists(st.builds(_image, st.sampled_from("ab"), st.booleans(), image_statuses), max_size=2))
    others = draw(st.lists(servers("s2", "amphora-2").map(lambda s: pool.Kept("amphora-2", s, None)), max_size=2))
    return Situation(
        amphora,
        balancer,
        health,
        NOW,
        server,
        draw(st.lists(st.sampled_from(ports), unique_by=lambda p: p.id)) if ports else (),
        images,
        others,
        draw(st.sampled_from([(), ("x",), ("x", "y")])),
    )


ages = st.sampled_from([0.0, 20.0, 100.0])
image_statuses = st.sampled_from(["queued", "saving", "active", "killed"])


def _image(identity: str, protected: bool, status: str) -> Image:
    protected = protected and status == "active"
    return Image(identity, "preserved", status, "octavia", protected, "private", properties={AMPHORA: ID})


@patient
@given(situations(), settings)
def test_only_what_is_marked_and_cut_off_is_let_go(s: Situation, kept: HousekeepingSettings) -> None:
    decision = next_step(s, kept)
    if isinstance(decision, Step) and decision.what in CUTTING:
        assert s.marked
        assert s.since
        assert kept.maximum_preserved_amphora_count > 0
        if decision.what == "let-go":
            assert not s.connected
            assert s.amphora.compute_id is not None


@patient
@given(situations(), settings)
def test_one_that_sends_heartbeats_is_not_cut_off(s: Situation, kept: HousekeepingSettings) -> None:
    beats = s.health is not None and -1 <= s.health.silent <= 1
    decision = next_step(s, kept)
    if beats and s.connected and isinstance(decision, Step):
        assert decision.what not in CUTTING


@patient
@given(situations(), settings)
def test_where_none_are_kept_nothing_is_prepared_for_it(s: Situation, kept: HousekeepingSettings) -> None:
    decision = next_step(s, replace(kept, maximum_preserved_amphora_count=0))
    forgotten = s.amphora.compute_id is None
    if isinstance(decision, Step) and not forgotten:
        assert decision.what not in KEEPING


@patient
@given(situations(), settings)
def test_while_the_health_manager_can_act_nothing_is_cut_off_without_a_fence(
    s: Situation, kept: HousekeepingSettings
) -> None:
    decision = next_step(s, kept)
    if isinstance(decision, Step) and decision.what in CUTTING | {"image", "mark"}:
        serving = s.amphora.status in records.SERVING
        assert not serving or s.health is None or -s.health.silent >= kept.preservation_lease / 2


@patient
@given(situations(), settings)
def test_a_server_of_which_an_image_is_due_is_not_deleted_before_it_is_sealed(
    s: Situation, kept: HousekeepingSettings
) -> None:
    """A failover without an image of a marked server only where it is not kept, or is let go already."""
    decision = next_step(s, kept)
    if isinstance(decision, Step) and decision.what.startswith("failover") and "kept as image" in decision.why:
        assert s.sealed is not None
        assert s.sealed.status == "active"


@patient
@given(situations(), st.sampled_from(["PENDING_UPDATE", "PENDING_DELETE", "PENDING_CREATE"]))
def test_a_load_balancer_that_octavia_works_on_is_left_to_it(s: Situation, status: str) -> None:
    assert isinstance(at_rest(s.amphora, replace(s.served, status=status)), Wait)


@patient
@given(situations())
def test_other_providers_are_none_of_ours(s: Situation) -> None:
    assert at_rest(s.amphora, replace(s.served, provider="ovn")) == Nothing()


def _judged(server: Server, silent: float | None, status: str = "ALLOCATED") -> object:
    amphora = records.Amphora(ID, BALANCER, SERVER, status, None, None, VIP_PORT, None, None, None, None, 1.0)
    port = Port(VIP_PORT, "octavia-lb-vrrp", "octavia", "net", SERVER, "compute:nova", "", True, 1)
    health = None if silent is None else records.Health(ID, silent, False)
    return judge(amphora, health, server, [port], 40.0)


def test_what_proves_a_failure() -> None:
    active = Server(SERVER, "amphora", "octavia", "ACTIVE", host="c")
    assert _judged(active, None) == Alive()
    assert _judged(active, 39.0) == Alive()
    assert _judged(active, -4.0) == Alive(), "the clock of the health manager's host is ahead"
    assert isinstance(_judged(active, 41.0), Failed)
    assert isinstance(_judged(active, -60.0), Failed), "a fence of ours"
    stopped = replace(active, status="SHUTOFF")
    assert isinstance(_judged(stopped, None), Failed)
    assert isinstance(_judged(stopped, 13.0), Failed)
    assert not isinstance(_judged(stopped, 5.0), Failed | Alive)
    assert not isinstance(_judged(replace(stopped, task_state="powering-on"), None), Failed | Alive)
    assert _judged(active, 1.0, "ERROR") == Failed("Octavia says that it is in ERROR", lives=True)
