"""Decides from given facts whether an amphora's certificate has a problem, and whether stackmend may heal it.

The worker verifies the agent's certificate. So no rotation can succeed after the certificate's end, and a failed rotation sets
the amphora to ERROR. Then only a failover helps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from handlers.octavia import records
from handlers.octavia.certificates.rotation import Rotation
from handlers.octavia.cloud_objects import Server


class Problem(StrEnum):
    BUSY = "certificate-busy"
    OVERDUE = "certificate-overdue"
    EXPIRED = "certificate-expired"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of an amphora, by the rows of the amphora and its load balancer.

    :param left: seconds until the certificate's end, by the database's clock
    :param busy: whether a rotation has begun and has not ended
    :param quiet: seconds since the amphora's row was last written
    """

    amphora: str
    server: str | None
    status: str
    end: datetime
    left: float
    busy: bool
    updated_at: datetime | None
    quiet: float
    load_balancer: str
    load_balancer_status: str


def problem(certificate: Certificate, rotation: Rotation) -> Problem | None:
    """Return the problem of a certificate; None if a flow perhaps works on it, or if Octavia has time to rotate it."""
    if certificate.load_balancer_status not in records.IDLE:
        return None
    if certificate.left <= 0:
        return Problem.EXPIRED
    if certificate.busy:
        return Problem.BUSY if certificate.quiet >= rotation.longest else None
    waited = min(certificate.quiet, rotation.buffer - certificate.left)
    return Problem.OVERDUE if waited >= rotation.overdue else None


def summary(certificate: Certificate, found: Problem, rotation: Rotation) -> str:
    of = f"the certificate of amphora {certificate.amphora}"
    match found:
        case Problem.EXPIRED:
            return f"{of} ended at {certificate.end} UTC: Octavia can no longer change or rotate it"
        case Problem.BUSY:
            return (
                f"{of} has cert_busy, unchanged for {rotation.longest:.0f} s: Octavia never rotates it again, and it ends at "
                f"{certificate.end} UTC"
            )
        case Problem.OVERDUE:
            return f"{of} ends at {certificate.end} UTC, and for {rotation.overdue:.0f} s Octavia has not begun to rotate it"


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that decide whether stackmend may heal ``certificate-busy``.

    :param flow: a sentence why a flow perhaps works on the amphora; empty if none does
    :param rotated_lately: an amphora of a round of rotations that perhaps still runs (:func:`queries.rotated_lately`)
    :param health: the heartbeat record of the amphora
    :param heard_within: greatest age, in seconds, of the last heartbeat of a healthy amphora
    """

    certificate: Certificate
    rotation: Rotation
    flow: str
    rotated_lately: str | None
    health: records.Health | None
    server: Server | None
    heard_within: float

    @property
    def failover(self) -> str:
        return f"openstack loadbalancer amphora failover {self.certificate.amphora}"

    @property
    def beats(self) -> bool:
        health = self.health
        return health is not None and not health.busy and -records.SKEW <= health.silent <= self.heard_within


@dataclass(frozen=True, slots=True)
class _Rule:
    applies: Callable[[Facts], bool]
    reason: Callable[[Facts], str]


#: An amphora with a busy certificate to which a rule applies is only reported; the first one gives the reason.
RULES = (
    _Rule(
        lambda f: f.certificate.status not in records.SERVING,
        lambda f: f"the amphora is {f.certificate.status}, as after a rotation that failed: run {f.failover}",
    ),
    _Rule(
        lambda f: f.certificate.load_balancer_status != "ACTIVE",
        lambda f: f"load balancer {f.certificate.load_balancer} is {f.certificate.load_balancer_status}",
    ),
    _Rule(
        lambda f: f.server is None or f.server.status != "ACTIVE",
        lambda f: f"its server is {'gone' if f.server is None else f.server.status}, and a rotation would fail",
    ),
    _Rule(
        lambda f: not f.beats,
        lambda f: f"it sends no heartbeats, and a rotation would fail: when the traffic allows it, run {f.failover}",
    ),
    _Rule(
        lambda f: f.certificate.left < f.rotation.overdue,
        lambda f: f"it ends before Octavia would rotate it: when the traffic allows it, run {f.failover}",
    ),
    _Rule(lambda f: bool(f.flow), lambda f: f.flow),
    _Rule(
        lambda f: f.rotated_lately is not None,
        lambda f: f"the row of amphora {f.rotated_lately} has changed, as in a round of rotations that may still run",
    ),
)


def obstacle(facts: Facts) -> str:
    """Return why stackmend must not reset ``cert_busy``; empty without a reason."""
    return next((rule.reason(facts) for rule in RULES if rule.applies(facts)), "")


def advice(certificate: Certificate, found: Problem) -> str:
    failover = f"openstack loadbalancer amphora failover {certificate.amphora}"
    if found is Problem.EXPIRED:
        return f"only a failover gives it a certificate that is valid: when the traffic allows it, run {failover}"
    return f"start octavia-housekeeping, or see its log; before the certificate ends, run {failover}"
