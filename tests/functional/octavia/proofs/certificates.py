"""Certificates whose rotation died."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from handlers.base import Key
from handlers.octavia.certificates.amphora_certificates import AmphoraCertificates
from handlers.octavia.certificates.rotation import Rotation
from tests.functional.octavia.mending import grow_older
from tests.functional.octavia.proofs.balancers import job_of_it, job_of_nothing, jobboard, unreadable_board
from tests.functional.octavia.proofs.drift import Act, Drift, Scene
from tests.functional.octavia.work_queue import Postings, Queue, job
from tests.functional.octavia.world import House

AFTER = 3600.0
ROTATION = Rotation(interval=600.0, buffer=14 * 86_400.0, longest=AFTER)
NAME = AmphoraCertificates.name


def in_days(days: float) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0) + timedelta(days=days)


def busy(house: House) -> Scene:
    """Return an amphora whose rotation began long ago and never ended, beside one that is well."""
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    amphora, other = house.serving(balancer)
    house.octavia.set_amphora(amphora.id, cert_busy=True, cert_expiration=in_days(10))
    grow_older(house)
    for row in (amphora, other):
        house.octavia.heartbeat(row.id, silent=1)
    queue = Queue()
    queue.board = Postings(job("get_update_load_balancer_flow-1", house.octavia.add_load_balancer()))
    key = Key("amphora", amphora.id)
    return Scene(house, AmphoraCertificates(house.driver, queue, ROTATION), key, queue, balancer)


def _is_rotated(scene: Scene) -> bool:
    """Whether Octavia rotates the certificate in its next round."""
    return scene.key.id in scene.house.octavia.rotate_certificates()


def _amphora(long_ago: bool = True, **values: object) -> Act:
    """Write values into the amphora's row."""

    def act(scene: Scene) -> None:
        scene.house.octavia.set_amphora(scene.key.id, **values)
        if long_ago:
            grow_older(scene.house)
            _beats(1)(scene)

    return act


def _beats(silent: float) -> Act:
    """Let the amphorae have sent their last heartbeats that many seconds ago."""

    def act(scene: Scene) -> None:
        for row in scene.house.serving(scene.balancer):
            scene.house.octavia.heartbeat(row.id, silent=silent)

    return act


def _without_beats(scene: Scene) -> None:
    grow_older(scene.house)


def _taken(scene: Scene) -> None:
    """Let the health manager have taken the amphora for a failover."""
    scene.house.octavia.set_busy(scene.key.id)


def _server(**values: object) -> Act:
    def act(scene: Scene) -> None:
        scene.house.cloud.alter_server(scene.house.amphora(scene.key.id).compute_id or "", **values)

    return act


def _server_gone(scene: Scene) -> None:
    scene.house.cloud.delete_server(scene.house.amphora(scene.key.id).compute_id or "")


def _balancer(status: str) -> Act:
    def act(scene: Scene) -> None:
        scene.house.octavia.set_balancer(scene.balancer, status)

    return act


def _other(**values: object) -> Act:
    """Write values into the row of the other amphora now."""

    def act(scene: Scene) -> None:
        (other,) = (row for row in scene.house.serving(scene.balancer) if row.id != scene.key.id)
        scene.house.octavia.set_amphora(other.id, **values)

    return act


def _job_of_it(scene: Scene) -> None:
    """Post the job of a rotation."""
    scene.queue.board = Postings(job("cert_rotate_amphora_flow-1", scene.key.id))


DRIFTS = (
    Drift(
        NAME,
        "certificate-busy",
        busy,
        _is_rotated,
        proof={
            "the row of the amphora, at work, with ``cert_busy``, unchanged for ``amphora_certificates_after``": {
                "not busy": _amphora(cert_busy=False),
                "it has changed": _amphora(long_ago=False, cert_busy=True),
                "in ERROR": _amphora(status="ERROR"),
                "PENDING_DELETE": _amphora(status="PENDING_DELETE"),
                "DELETED": _amphora(status="DELETED"),
                "on no load balancer": _amphora(load_balancer_id=None),
            },
            "its heartbeat record, fresh": {
                "none for a day": _without_beats,
                "none for a minute": _beats(60),
                "a lease": _beats(-60),
                "taken for a failover": _taken,
            },
            "Nova's server, ACTIVE": {
                "stopped": _server(status="SHUTOFF"),
                "gone": _server_gone,
                "Nova does not answer": lambda scene: scene.house.cloud.weather.unreachable.add("compute"),
            },
            "its load balancer, ACTIVE": {
                value: _balancer(value) for value in ("ERROR", "PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE")
            },
        },
        contradiction={
            "a row that another rotation has written within that time": {
                "it is busy": _other(cert_busy=True, cert_expiration=in_days(10)),
                "it was rotated": _other(cert_expiration=in_days(30)),
                "it failed": _other(status="ERROR", cert_busy=True),
            },
            "a job of it on Octavia's jobboard": {
                "of it": _job_of_it,
                "of its load balancer": job_of_it,
                "of an unknown object": job_of_nothing,
            },
            "a jobboard that stackmend cannot read, or none known": {
                "it proves nothing": unreadable_board,
                "none known": jobboard("it is unknown whether Octavia has a jobboard"),
            },
            "a certificate that ends before Octavia would rotate it": {
                "in an hour": _amphora(cert_expiration=in_days(1 / 24)),
                "it has ended": _amphora(cert_expiration=in_days(-1)),
            },
        },
    ),
)
