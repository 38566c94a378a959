"""The image that ``deploy/container/build`` makes: the daemon in it heals an event of a real broker, as a user without rights.

``buildah run --isolation chroot`` needs root, and neither crun nor runc.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.program import Program
from tests.services.virtual_host import Bus
from tests.waiting import eventually

IMAGE = "localhost/stackmend"
USER = 42490


def buildah(*arguments: str) -> str:
    command = ["buildah", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


@pytest.fixture
def container() -> Iterator[str]:
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("it needs buildah and root")
    if IMAGE not in buildah("images", "--format", "{{.Name}}").splitlines():
        pytest.skip(f"there is no image {IMAGE}: run deploy/container/build")
    made = buildah("from", "--pull-never", IMAGE)
    yield made
    buildah("rm", made)


def test_the_daemon_in_the_container_heals_an_event(
    container: str, cloud: NovaSimulation, bus: Bus, options: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    options["journal"] = {"connection": "sqlite:////var/lib/stackmend/journal.sqlite"}
    program = Program(tmp_path / "stackmend", options)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, USER, USER)
    mounts = {program.folder: "/etc/stackmend:ro", tmp_path / "cloud": str(tmp_path / "cloud")}
    volumes = [f"--volume={folder}:{place}" for folder, place in mounts.items()]
    run = ["buildah", "run", "--isolation=chroot", *volumes, container, "--"]
    output = tmp_path / "log"
    with output.open("wb") as log:
        daemon = subprocess.Popen([*run, "stackmend", "run"], stdout=log, stderr=log, start_new_session=True)
        try:
            eventually(lambda: "reading the queue stackmend.info" in output.read_text(), 120, "the start")
            cloud.register_host("compute-9", "cell2")
            bus.publish([notification.body for notification in cloud.take()])
            eventually(lambda: cloud.host_mappings().get("compute-9") == "cell2", 120, "the mapping")
        finally:
            os.killpg(daemon.pid, signal.SIGTERM)
            daemon.wait(30)
            print(output.read_text()[-4000:])
    written = subprocess.run(
        [*run, "sh", "-c", "id -u; touch /etc/x /opt/stackmend/x"], capture_output=True, text=True, check=False
    )
    assert written.stdout == f"{USER}\n"
    assert written.stderr.count("Permission denied") == 2
