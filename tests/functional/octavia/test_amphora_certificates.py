"""Certificates that Octavia does not rotate: found, reported with the next command, and released for Octavia's next round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Conflict, Refused
from handlers.octavia import tables
from handlers.octavia.certificates.amphora_certificates import AmphoraCertificates
from handlers.octavia.certificates.rotation import Rotation, rotation
from tests.functional.octavia.mending import findings, grow_older, killed_everywhere, mend, problems, world
from tests.functional.octavia.operator import Operator
from tests.functional.octavia.proofs.certificates import ROTATION, busy, in_days
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

HOUR = 3600.0


def handler(house: House) -> AmphoraCertificates:
    return AmphoraCertificates(house.driver, Queue(), ROTATION)


def amphora(house: House, days: float, busy: bool = False, age: float = 86_400.0, **values: object) -> str:
    """Return an amphora whose certificate ends in so many days, and whose row is ``age`` seconds old."""
    (row,) = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(row.id, cert_expiration=in_days(days), cert_busy=busy, **values)
    grow_older(house, age)
    house.octavia.heartbeat(row.id, silent=1)
    return row.id


def cert_busy(house: House, identity: str) -> bool:
    c = tables.amphora.c
    query = sa.select(c.cert_busy).where(c.id == identity)
    return bool(house.database.run(lambda connection: connection.execute(query).scalar_one()))


@pytest.mark.parametrize(
    ("days", "is_busy", "age", "problem"),
    [
        (30, False, 86_400, None),
        # a rotation that began an hour ago is as long as none may be
        (10, True, HOUR - 60, None),
        (10, True, HOUR + 60, "certificate-busy"),
        # killed between the last two writes of a rotation
        (29, True, HOUR + 60, "certificate-busy"),
        # the certificate has just come into the buffer, or its row has just been released
        (13.99, False, 86_400, None),
        (10, False, HOUR, None),
        (10, False, HOUR + 1260, "certificate-overdue"),
        (-1, False, 86_400, "certificate-expired"),
        (-1, True, 86_400, "certificate-expired"),
        (-1, True, 60, "certificate-expired"),
    ],
)
def test_every_certificate_is_judged_by_its_end_its_mark_and_its_age(
    house: House, days: float, is_busy: bool, age: float, problem: str | None
) -> None:
    amphora(house, days, is_busy, age)
    house.octavia.add_load_balancer("ACTIVE_STANDBY")
    assert problems(handler(house)) == ([problem] if problem else [])


def test_a_released_certificate_is_rotated_by_octavia(house: House) -> None:
    identity = amphora(house, 10, busy=True)
    assert house.octavia.rotate_certificates() == [], "Octavia itself leaves it"
    (healed,) = mend(handler(house))
    assert healed.complete
    assert not cert_busy(house, identity)
    assert findings(handler(house)) == [], "Octavia's next round is given time"
    assert house.octavia.rotate_certificates() == [identity]
    grow_older(house)
    assert findings(handler(house)) == []


def test_all_certificates_of_a_round_that_died_are_released(house: House) -> None:
    identities = {amphora(house, 10, busy=True, age=0.0) for _number in range(5)}
    grow_older(house)
    for identity in identities:
        house.octavia.heartbeat(identity, silent=1)
    assert len(mend(handler(house))) == 5
    assert set(house.octavia.rotate_certificates()) == identities


@pytest.mark.parametrize("days", [10, 29])
def test_the_undo_sets_the_mark_again(house: House, days: float) -> None:
    identity = amphora(house, days, busy=True)
    for known_before in (True, False):
        (finding,) = findings(handler(house))
        healed = handler(house).heal(finding)
        assert not cert_busy(house, identity)
        Operator(house).follow(finding.undo if known_before else healed.undo, finding.problem)
        assert cert_busy(house, identity)
        grow_older(house)
        house.octavia.heartbeat(identity, silent=1)


def test_a_late_undo_leaves_a_rotated_certificate_alone(house: House) -> None:
    identity = amphora(house, 10, busy=True)
    (finding,) = findings(handler(house))
    handler(house).heal(finding)
    house.octavia.rotate_certificates()
    Operator(house).follow(finding.undo, finding.problem)
    assert not cert_busy(house, identity)


def test_a_rotation_that_ends_in_the_last_moment_wins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = amphora(house, 10, busy=True)
    one = handler(house)
    (finding,) = findings(one)
    prove = one.prove_again

    def proved_then_rotated(*arguments: object) -> object:
        proved = prove(*arguments)  # type: ignore[arg-type]
        house.octavia.set_amphora(identity, cert_busy=True, cert_expiration=in_days(30))
        return proved

    monkeypatch.setattr(one, "prove_again", proved_then_rotated)
    with pytest.raises(Conflict):
        one.heal(finding)
    assert cert_busy(house, identity)


@pytest.mark.parametrize(
    ("days", "is_busy", "status", "words"),
    [
        (-1, False, "ALLOCATED", "openstack loadbalancer amphora failover AMPHORA"),
        (10, False, "ALLOCATED", "start octavia-housekeeping"),
        (10, True, "ERROR", "openstack loadbalancer amphora failover AMPHORA"),
        (0.01, True, "ALLOCATED", "openstack loadbalancer amphora failover AMPHORA"),
    ],
)
def test_a_report_names_the_next_command_and_no_heal_follows(
    house: House, days: float, is_busy: bool, status: str, words: str
) -> None:
    identity = amphora(house, days, is_busy, status=status)
    (finding,) = findings(handler(house))
    assert words.replace("AMPHORA", identity) in finding.refusal
    before = world(house)
    for one in (finding, replace(finding, healable=True)):
        with pytest.raises((Refused, Conflict)):
            handler(house).heal(one)
    assert world(house) == before


def test_amphorae_that_are_no_concern_of_it_stay(house: House) -> None:
    """A device of another provider, an amphora without a load balancer, one of a flow, and one without a server."""
    of_another = amphora(house, -1)
    change = sa.update(tables.load_balancer).values(provider="f5")
    house.database.run(lambda connection: connection.execute(change))
    no_certificate = amphora(house, 10, busy=True)
    house.octavia.set_amphora(no_certificate, cert_expiration=None)
    alone = amphora(house, -1)
    house.octavia.set_amphora(alone, load_balancer_id=None)
    in_a_flow = amphora(house, -1, status="PENDING_DELETE")
    gone = amphora(house, -1)
    house.cloud.delete_server(house.amphora(gone).compute_id or "")
    grow_older(house)
    assert findings(handler(house)) == []
    assert len({of_another, no_certificate, alone, in_a_flow, gone}) == 5


def test_an_amphora_on_a_load_balancer_in_a_flow_stays(house: House) -> None:
    identity = amphora(house, 10, busy=True)
    house.octavia.set_balancer(house.amphora(identity).load_balancer_id or "", "PENDING_UPDATE")
    assert findings(handler(house)) == []


def test_a_schema_that_is_not_known_is_not_written(house: House) -> None:
    amphora(house, 10, busy=True)
    (finding,) = findings(handler(house))
    change = sa.update(tables.alembic_version).values(version_num="unknown")
    house.database.run(lambda connection: connection.execute(change))
    before = world(house)
    with pytest.raises(Refused):
        handler(house).heal(finding)
    assert world(house) == before


@pytest.mark.slow
def test_a_certificate_is_released_although_the_handler_is_killed_at_any_moment(
    make_house: Callable[..., House],
) -> None:
    def make() -> tuple[House, AmphoraCertificates]:
        house = make_house()
        busy(house)
        return house, handler(house)

    moments = 0
    for house, one, where in killed_everywhere(make):
        mend(one)
        moments += 1
        assert len(house.octavia.rotate_certificates()) == 1, where
    assert moments > 5


def files(folder: Path, text: str) -> ServiceFiles:
    (folder / "octavia.conf").write_text(f"[house_keeping]\n{text}\n")
    return ServiceFiles("[octavia] config_file", [str(folder / "octavia.conf")])


def test_the_times_of_rotations_follow_from_octavias_files(tmp_path: Path) -> None:
    assert rotation(files(tmp_path, ""), 9.0) == Rotation(3600.0, 1_209_600.0, 9.0)
    assert rotation(files(tmp_path, "cert_interval = 60\ncert_expiry_buffer = 86400"), 9.0) == Rotation(60, 86_400, 9)
    with pytest.raises(ConfigError, match="cert_interval = often is not a number"):
        rotation(files(tmp_path, "cert_interval = often"), 9.0)
