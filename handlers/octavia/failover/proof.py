"""Decides whether an amphora has failed, by the first rule of :data:`RULES` that applies.

A server that Nova shows as stopped or in ERROR perhaps still runs. After a restore of Nova's database, Nova perhaps does not
know a server that runs. So a recent heartbeat contradicts Nova in both cases. An amphora without a row in ``amphora_health``
has never sent a heartbeat. While the server is ACTIVE, the missing row proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from handlers.octavia.cloud_objects import REASON, Server
from handlers.octavia.failover.heartbeats import FEW
from handlers.octavia.failover.steps import Situation
from handlers.octavia.settings import HousekeepingSettings

#: seconds after which heartbeats are observed again while they prove nothing
_OBSERVE = 5.0

#: the reason in the mark of an amphora whose silence proved the failure
_SILENT = "no heartbeat has come"

#: states of a server in which no amphora serves
_DOWN = frozenset({"SHUTOFF", "ERROR", "SUSPENDED", "SHELVED", "SHELVED_OFFLOADED", "SOFT_DELETED", "DELETED"})
#: tasks with which Nova stops or deletes a server
_STOPPING = frozenset({"deleting", "soft-deleting", "powering-off"})


@dataclass(frozen=True, slots=True)
class Failed:
    """The verdict that the amphora has failed.

    :param beats: whether the amphora still sends heartbeats
    :param perhaps_beats: whether the amphora possibly serves, because heartbeats prove nothing now
    """

    why: str
    beats: bool = False
    perhaps_beats: bool = False


@dataclass(frozen=True, slots=True)
class Alive:
    """The verdict that nothing proves a failure."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """The verdict that the facts prove neither life nor failure yet.

    :param after: seconds until an inspection can prove something
    """

    reason: str
    after: float


@dataclass(frozen=True, slots=True)
class OneWitness:
    """The verdict that one record shows a failure, and that no second record will follow.

    :param why: the sign of the failure
    :param reason: why stackmend reports the amphora but does not heal it
    """

    why: str
    reason: str


Verdict = Failed | Alive | Unclear | OneWitness


@dataclass(frozen=True, slots=True)
class Signs:
    """The facts about an amphora on which the rules decide.

    :param stale_after: seconds of silence that count as a failure
    :param quiet_after: seconds after the last heartbeat for which that heartbeat contradicts a failure
    """

    s: Situation
    stale_after: float
    quiet_after: float

    @property
    def silent_for(self) -> float | None:
        """Seconds since the last heartbeat; None without a heartbeat record, or under a heartbeat lease."""
        return None if self.s.health is None or self.s.leased else self.s.health.silent

    @property
    def beating(self) -> bool:
        return self.silent_for is not None and self.silent_for < self.quiet_after

    @property
    def rest(self) -> float:
        """Seconds until the last heartbeat no longer contradicts a failure; at least 1."""
        return max(1.0, self.quiet_after - (self.silent_for or 0.0))

    @property
    def silent(self) -> bool:
        return self.silent_for is not None and self.silent_for > self.stale_after

    @property
    def silence(self) -> str:
        return f"{_SILENT} for {self.stale_after:g} s"

    @property
    def marked_for_silence(self) -> bool:
        return self.server.metadata.get(REASON, "").startswith(_SILENT)

    @property
    def server(self) -> Server:
        """:raises LookupError: Nova has no server"""
        if self.s.server is None:
            raise LookupError(self.s.amphora.id)
        return self.s.server

    @property
    def down(self) -> bool:
        return self.server.status in _DOWN

    @property
    def perhaps_beats(self) -> bool:
        """Whether silence proves nothing now, nothing else shows that the guest is down, and its networks are untouched."""
        server = self.s.server
        if self.beating or self.s.unsettled <= 0 or server is None or self.s.detaching or not self.s.connected:
            return False
        return not self.down and server.host_up is not False

    @property
    def without_vip(self) -> bool:
        vip = self.s.amphora.vrrp_port_id
        return vip is not None and all(port.id != vip for port in self.s.ports)


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    applies: Callable[[Signs], bool]
    verdict: Callable[[Signs], Verdict]


RULES: tuple[Rule, ...] = (
    Rule(
        "the row is in ERROR",
        lambda a: a.s.amphora.status == "ERROR",
        lambda a: Failed(
            "Octavia reports it in ERROR", beats=a.beating and bool(a.s.connected), perhaps_beats=a.perhaps_beats
        ),
    ),
    Rule(
        "the row names no server",
        lambda a: a.s.server is None and a.s.amphora.compute_id is None,
        lambda _: Failed("its row names no server"),
    ),
    Rule(
        "Nova does not know the server, and a heartbeat contradicts",
        lambda a: a.s.server is None and a.beating,
        lambda a: Unclear("Nova does not know its server, but the amphora has just sent a heartbeat", a.rest),
    ),
    Rule(
        "Nova does not know the server",
        lambda a: a.s.server is None,
        lambda _: Failed("Nova does not know its server"),
    ),
    Rule(
        "we cut it off",
        lambda a: a.s.marked and not a.s.connected,
        lambda _: Failed("it is cut off"),
    ),
    Rule(
        "we cut it off from its VIP",
        lambda a: a.s.marked and a.without_vip,
        lambda a: Failed("it was cut off from its VIP", beats=a.beating),
    ),
    Rule(
        "the server is down, and a heartbeat contradicts",
        lambda a: a.down and a.beating,
        lambda a: Unclear(
            f"server {a.server.id} is {a.server.status}, but its amphora has just sent a heartbeat", a.rest
        ),
    ),
    Rule(
        "the server is down, and Nova works on it",
        lambda a: a.down and a.server.task_state is not None and not a.s.marked,
        lambda a: Unclear(f"Nova is working on server {a.server.id}: {a.server.task_state}", 2.0),
    ),
    Rule(
        "the server is down",
        lambda a: a.down,
        lambda a: Failed(f"its server is {a.server.status}"),
    ),
    Rule(
        "under lease, which began after silence was proved",
        lambda a: a.s.leased and a.marked_for_silence,
        lambda a: Failed(a.silence),
    ),
    Rule(
        "under lease, and its server is no longer down",
        lambda a: a.s.leased,
        lambda a: Unclear(f"server {a.server.id} is {a.server.status} again, so a heartbeat may come", _OBSERVE),
    ),
    Rule(
        "silent, among few",
        lambda a: a.silent and a.s.heard.few and a.server.host_up is not False,
        lambda a: OneWitness(
            a.silence,
            f"only {a.s.heard.amphorae} amphorae send heartbeats, and Nova reports server {a.server.id} ACTIVE on a host "
            f"that is up; with {FEW} or fewer, stackmend leaves silence to Octavia's health manager",
        ),
    ),
    Rule(
        "silent, while heartbeats prove nothing",
        lambda a: a.silent and a.s.unsettled > 0 and a.s.heard.amphorae > 1,
        lambda a: Unclear(
            f"{a.s.heard.lately} of {a.s.heard.amphorae} amphorae were heard lately; silence proves something after "
            f"{a.s.unsettled:.0f} s in which most are heard",
            min(_OBSERVE, a.s.unsettled),
        ),
    ),
    Rule(
        "silent",
        lambda a: a.silent,
        lambda a: Failed(a.silence),
    ),
    Rule(
        "Nova stops the server",
        lambda a: a.server.task_state in _STOPPING,
        lambda a: Unclear(f"Nova is working on server {a.server.id}: {a.server.task_state}", 1.5),
    ),
    Rule("nothing", lambda _: True, lambda _: Alive()),
)


def judge(situation: Situation, settings: HousekeepingSettings) -> Verdict:
    """:param situation: an amphora in ALLOCATED, FAILOVER_STOPPED or ERROR, while no flow works on the load balancer"""
    signs = Signs(situation, settings.stale_after, settings.quiet_after)
    return next(rule.verdict(signs) for rule in RULES if rule.applies(signs))
