"""Attachments beside a real Nova and a real Cinder: left behind for real, and deleted once no server uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.access.cinder import Attachment, Storage
from handlers.access.cloud import Cloud
from handlers.base import Conflict, Refused
from tests.cloud.configuration import merge
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.program import Program
from tests.program import only as on

MISSING = "77777777-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def volumes(cloud: ControlPlane) -> Any:
    """Cinder with a service of volumes, as the administrator sees it."""
    cloud.start_volumes()
    storage = cloud.admin.block_storage
    wait_until(
        lambda: any(one.state == "up" and one.binary == "cinder-volume" for one in storage.services()),
        90,
        "cinder-volume",
    )
    return storage


@pytest.fixture(scope="module")
def storage(cloud: ControlPlane) -> Storage:
    """stackmend's client with the rights of Nova's account."""
    session = cloud.connection(username="nova", project_name="service").session
    return Storage(Cloud(session).service("block-storage"))


def attached(cloud: ControlPlane, volumes: Any) -> tuple[str, str]:
    """Attach a new volume to a new server; return both."""
    server = cloud.boot("disk", "compute-1").id
    volume = volumes.create_volume(size=1)
    wait_until(lambda: volumes.get_volume(volume.id).status == "available", 60, "the volume")
    cloud.admin.compute.create_volume_attachment(server, volume_id=volume.id)
    wait_until(lambda: volumes.get_volume(volume.id).status == "in-use", 60, "the attachment")
    return str(server), str(volume.id)


def only(storage: Storage, server: str) -> Attachment:
    [found] = storage.attachments_of(instance_id=server)
    return found


def test_the_client_reads_what_nova_attached(cloud: ControlPlane, volumes: Any, storage: Storage) -> None:
    server, volume = attached(cloud, volumes)
    one = only(storage, server)
    assert (one.volume, one.status, one.connected) == (volume, "attached", True)
    assert storage.attachment(one.id) == one
    assert one.id in {found.id for found in storage.attachments()}
    assert volume in set(storage.volumes())
    assert storage.has_volume(volume)
    assert not storage.has_volume(MISSING)
    assert storage.attachment(MISSING) is None


def test_cinder_refuses_to_delete_an_attachment_that_nova_uses(
    cloud: ControlPlane, volumes: Any, storage: Storage
) -> None:
    server, _ = attached(cloud, volumes)
    with pytest.raises(Refused, match="409"):
        storage.delete_attachment(only(storage, server))
    assert only(storage, server).connected


def leaked(cloud: ControlPlane, volumes: Any) -> tuple[str, str]:
    """Delete a server while Cinder does not answer; return the server and its volume."""
    server, volume = attached(cloud, volumes)
    cloud.stop_service("cinder")
    cloud.admin.compute.delete_server(server)
    wait_until(lambda: cloud.admin.compute.find_server(server) is None, 120, "the deletion")
    cloud.start_service("cinder")
    return server, volume


def bury(cloud: ControlPlane, server: str) -> None:
    """Let a server have been deleted long ago, with the periodic task of nova-compute done."""
    cloud.mariadb.execute(
        "UPDATE instances SET created_at = '2026-01-01', updated_at = '2026-01-01', deleted_at = '2026-01-01', cleaned = 1"
        f" WHERE uuid = '{server}'",
        "nova_cell1",
    )


def test_an_attachment_that_a_deletion_left_is_deleted(cloud: ControlPlane, volumes: Any, storage: Storage) -> None:
    server, volume = leaked(cloud, volumes)
    left = only(storage, server)
    assert left.connected
    assert volumes.get_volume(volume).status == "in-use"
    storage.delete_attachment(left)
    assert volumes.get_volume(volume).status == "available"
    with pytest.raises(Conflict):
        storage.delete_attachment(left)


def test_a_sweep_heals_what_a_deletion_left(
    cloud: ControlPlane, volumes: Any, storage: Storage, tmp_path: Path
) -> None:
    live, used = attached(cloud, volumes)
    server, volume = leaked(cloud, volumes)
    options = merge(cloud.account.options(), {"audit": {"audit_attachments_mode": "heal"}})
    with Program(tmp_path / "program", options) as program:
        program.run("db", "sync")
        [young] = program.json("sweep", "audit_attachments", "--key", f"instance:{server}")
        assert young["action"] == "in flight"
        bury(cloud, server)
        healed = [line["key"] for line in program.json("sweep", "audit_attachments") if line["action"] == "healed"]
        assert healed == [f"instance:{server}"]
        assert program.json("sweep", "audit_attachments") == []
    assert volumes.get_volume(volume).status == "available"
    assert volumes.get_volume(used).status == "in-use"
    assert only(storage, live).connected


def test_a_notification_of_cinder_hints_at_its_volume(
    cloud: ControlPlane, volumes: Any, storage: Storage, tmp_path: Path
) -> None:
    bus = cloud.account.options()["nova"]["transport_url"]
    options = merge(
        cloud.account.options(),
        {
            "audit": {**on("audit_attachments"), "audit_attachments_mode": "heal"},
            "cinder": {"transport_url": bus},
        },
    )
    with Program(tmp_path / "program", options) as program:
        program.run("db", "upgrade")
        program.start()
        wait_until(lambda: "runs as" in program.log.read_text(), 120, "the start of stackmend")
        server, volume = leaked(cloud, volumes)
        bury(cloud, server)
        assert only(storage, server).connected

        # A second attachment of the same instance, as a live migration makes it; its end is announced.
        connector = {"host": "compute-2", "initiator": "iqn.2026-01.test:two", "ip": "127.0.0.2", "platform": "x86_64"}
        second = volumes.create_attachment(volume, instance=server, connector={**connector, "os_type": "linux"})
        volumes.delete_attachment(second.id)
        wait_until(lambda: volumes.get_volume(volume).status == "available", 120, "the heal")
        [line] = program.json("history", "--outcome", "healed")
        assert (line["handler"], line["hint"]) == ("audit_attachments", "volume.detach.end")
        assert storage.attachments_of(instance_id=server) == []
