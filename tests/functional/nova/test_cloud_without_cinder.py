"""In a cloud without Cinder, ``audit_attachments`` fails no command, and the commands give the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handlers.access.cinder import ABSENT
from handlers.nova.simulation import NovaSimulation
from tests.keystone import Keystone
from tests.program import Program

#: starts a program whose catalogue also has these endpoints
Started = Callable[..., Program]


@pytest.fixture
def started(cloud: NovaSimulation, tmp_path: Path) -> Iterator[Started]:
    with ExitStack() as stack:

        def start(*endpoints: tuple[str, str, str], mode: str = "audit", region: str = "") -> Program:
            ours = (("placement", "one", cloud.placement.url), ("network", "one", cloud.neutron.url))
            keystone = stack.enter_context(Keystone(cloud.placement.TOKEN, ["admin", "service"], (*ours, *endpoints)))
            options: dict[str, dict[str, object]] = {group: {**values} for group, values in cloud.options().items()}
            options["openstack"] = {
                "auth_type": "v3password",
                "auth_url": keystone.url,
                "username": "mender",
                "password": "m",
                "user_domain_name": "Default",
                "project_name": "service",
                "project_domain_name": "Default",
                **({"region_name": region} if region else {}),
            }
            options["audit"] = {"audit_attachments_mode": mode}
            return stack.enter_context(Program(tmp_path / "program", options))

        yield start


@pytest.fixture(autouse=True)
def leak(cloud: NovaSimulation) -> None:
    """One attachment of a deleted instance, in a cloud that is right otherwise."""
    with cloud.ago(hours=3):
        cloud.add_compute("a", "cell1")
        cloud.map_host("a")
        instance = cloud.boot("a")
        cloud.attach_volume(instance)
        cloud.delete(instance, leak_attachments=True)
    cloud.heartbeat("a")


def test_a_sweep_of_all_handlers_ends_well(cloud: NovaSimulation, started: Started) -> None:
    swept = started().run("sweep", "--audit", "-f", "json")
    assert (swept.returncode, swept.stdout.strip()) == (0, "[]"), swept.stderr
    assert swept.stderr.splitlines().count(ABSENT) == 1
    assert "no drift found" in swept.stderr


def test_the_same_sweep_finds_the_attachment_if_the_catalogue_has_a_cinder(
    cloud: NovaSimulation, started: Started
) -> None:
    swept = started(("volumev3", "one", cloud.cinder.url)).run("sweep", "--audit")
    assert swept.returncode == 2, swept.stderr
    assert "attachment-of-deleted-instance" in swept.stdout
    assert ABSENT not in swept.stderr


@pytest.mark.parametrize(("mode", "verdict"), [("audit", "ok"), ("heal", "warning")])
def test_the_check_gives_one_line(started: Started, mode: str, verdict: str) -> None:
    [line] = [line for line in started(mode=mode).json("check") if line["check"] == "cinder"]
    assert line["result"] == verdict
    assert line["details"].startswith(ABSENT)
    assert ("audit_attachments_mode = off" in line["details"]) == (mode == "heal")


def test_a_cinder_in_another_region_is_not_a_cloud_without_cinder(cloud: NovaSimulation, started: Started) -> None:
    program = started(("volumev3", "north", cloud.cinder.url), ("volumev3", "south", cloud.cinder.url), region="one")
    sentence = "the service catalogue has no Cinder (block-storage) in the region one, only in north, south. "
    [line] = [line for line in program.json("check") if line["check"] == "cinder"]
    assert line["result"] == "warning"
    assert line["details"].startswith(sentence)
    assert "[openstack] region_name" in line["details"]
    swept = program.run("sweep", "--audit", "audit_attachments")
    assert swept.returncode == 0
    assert sentence in swept.stderr
    assert ABSENT not in swept.stderr


def test_a_cinder_that_answers_and_one_that_does_not(cloud: NovaSimulation, started: Started) -> None:
    program = started(("block-storage", "one", cloud.cinder.url))
    results = []
    for faults in ({}, {"GET": 503}):
        cloud.cinder.faults = faults
        results += [line["result"] for line in program.json("check") if line["check"] == "cinder"]
    assert results == ["ok", "failure"]
    swept = program.run("sweep", "--audit", "audit_attachments")
    assert swept.returncode == 1
    assert "block-storage" in swept.stdout


def test_credentials_without_a_catalogue(cloud: NovaSimulation, tmp_path: Path) -> None:
    """The only endpoint of such credentials is Placement's, which stackmend must not take for Cinder's."""
    options: dict[str, dict[str, object]] = {group: {**values} for group, values in cloud.options().items()}
    del options["openstack"]["block_storage_endpoint_override"]
    with Program(tmp_path / "program", options) as program:
        [line] = [line for line in program.json("check") if line["check"] == "cinder"]
        assert line["result"] == "ok"
        assert line["details"].startswith(ABSENT)
        swept = program.run("sweep", "--audit", "audit_attachments")
        assert (swept.returncode, ABSENT in swept.stderr) == (0, True)
