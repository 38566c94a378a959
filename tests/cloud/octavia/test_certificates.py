"""A certificate whose rotation died is rotated by Octavia again; while a round of rotations may run, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import world
from tests.cloud.octavia.wreck import age

#: Days until the end of a certificate. Octavia rotates it in its last two weeks, and makes it valid for 30 days.
DUE, NEW = 10, 20
NAME = "amphora_certificates"


@contextmanager
def rounds(cloud: ControlPlane, folder: Path) -> Iterator[None]:
    """Octavia's housekeeping, with a round of rotations every five seconds."""
    more = folder / "rounds.conf"
    more.write_text("[house_keeping]\ncert_interval = 5\n")
    cloud.start_housekeeping(more)
    try:
        yield
    finally:
        cloud.stop_service("octavia-housekeeping")


class Certificates:
    """The certificates of amphorae, in Octavia's database."""

    def __init__(self, cloud: ControlPlane) -> None:
        self._cloud = cloud

    def change(self, amphora: str, assignment: str) -> None:
        self._cloud.mariadb.execute(f"UPDATE amphora SET {assignment} WHERE id = '{amphora}'", "octavia")

    def let_be_due(self, amphora: str) -> None:
        self.change(amphora, f"cert_expiration = utc_timestamp() + INTERVAL {DUE} DAY")

    def is_busy(self, amphora: str) -> bool:
        return self._value("cert_busy", amphora) == "1"

    def is_new(self, amphora: str) -> bool:
        days = self._value("TIMESTAMPDIFF(DAY, utc_timestamp(), cert_expiration)", amphora)
        return int(days) >= NEW and not self.is_busy(amphora)

    def _value(self, expression: str, amphora: str) -> str:
        return self._cloud.mariadb.execute(
            f"SELECT {expression} FROM amphora WHERE id = '{amphora}'", "octavia"
        ).strip()


def sweep(scene: Scene) -> list[dict[str, Any]]:
    """Look at all certificates once, and heal. Each amphora has just sent a heartbeat."""
    scene.cloud.mariadb.execute(
        "REPLACE INTO amphora_health (amphora_id, last_update, busy) SELECT id, utc_timestamp(), 0 FROM amphora"
        " WHERE status = 'ALLOCATED'",
        "octavia",
    )
    journal = {"connection": f"sqlite:///{scene.program.folder}/journal.sqlite"}
    scene.program.configure({"journal": journal, **installation.options(scene.cloud, NAME)})
    found: list[dict[str, Any]] = scene.program.json("sweep", NAME)
    return found


def test_octavia_rotates_a_certificate_again_whose_rotation_died(
    before: set[str], scene: Scene, tmp_path: Path
) -> None:
    certificates = Certificates(scene.cloud)
    made = scene.create("SINGLE", "SINGLE")
    stuck, due = (scene.victim(balancer).id for balancer in made)

    def heal() -> None:
        age(scene.cloud, scene.program)
        [healed] = sweep(scene)
        assert healed["action"] == "healed", healed
        assert not certificates.is_busy(stuck)

    for amphora in (stuck, due):
        certificates.let_be_due(amphora)
    certificates.change(stuck, "cert_busy = 1")
    age(scene.cloud, scene.program)

    with rounds(scene.cloud, tmp_path):
        wait_until(lambda: certificates.is_new(due), PATIENCE, "the rotation of the other certificate")
    assert certificates.is_busy(stuck), "Octavia leaves it"
    [refused] = sweep(scene)
    assert (refused["key"], refused["problem"]) == (f"amphora:{stuck}", "certificate-busy")
    assert certificates.is_busy(stuck), "the round may still run"

    heal()
    [line] = installation.healed(scene.program, f"amphora:{stuck}")
    scene.cloud.mariadb.execute(line["undo"], "octavia")
    assert certificates.is_busy(stuck), "the undo restores the row"

    heal()
    with rounds(scene.cloud, tmp_path):
        wait_until(lambda: certificates.is_new(stuck), PATIENCE, "the rotation of the certificate")
    assert sweep(scene) == []
    scene.cloud.mariadb.execute(line["undo"], "octavia")
    assert certificates.is_new(stuck), "an undo that comes too late changes nothing"
    scene.end(*made)
    assert world(scene.cloud) == before
