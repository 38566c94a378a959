"""A RabbitMQ user with the documented permissions, and no others, is enough for both modes of reading."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.program import Program
from tests.services.virtual_host import Bus
from tests.waiting import eventually

DOCUMENT = Path(__file__).parents[2] / "doc" / "source" / "rabbitmq.rst"
PERMISSIONS = re.compile(r"(\w+):\n +# rabbitmqctl set_permissions -p / stackmend '(.*)' '(.*)' '(.*)'")
#: where publishers send what each mode reads
QUEUES = {"topic": "stackmend.info", "bind": "versioned_notifications.info"}


@pytest.fixture
def user(bus: Bus) -> Iterator[str]:
    """A user who may do nothing yet."""
    name = f"mender-{uuid.uuid4().hex[:6]}"
    bus.server.ctl("add_user", name, "m")
    yield name
    bus.server.ctl("delete_user", name)


@pytest.mark.parametrize("mode", QUEUES)
def test_an_event_is_healed_with_the_documented_permissions(
    mode: str, cloud: NovaSimulation, bus: Bus, user: str, options: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    documented = {words[0]: words[1:] for words in PERMISSIONS.findall(DOCUMENT.read_text())}
    bus.server.ctl("set_permissions", "-p", bus.vhost, user, *documented[mode])
    options["nova"]["transport_url"] = re.sub(r"^.*@", f"rabbit://{user}:m@", bus.url)
    options["bus"] = {"queue_mode": mode}
    cloud.register_host("compute-9", "cell2")
    with Program(tmp_path / "stackmend", options) as program:
        program.start()

        def bound() -> bool:
            return "stackmend.events" in bus.server.ctl(
                "list_bindings", "-p", bus.vhost, "destination_name", "source_name"
            )

        if mode == "bind":
            eventually(bound, 120, f"the binding; see {program.log}")
        bus.publish([notification.body for notification in cloud.take()], QUEUES[mode])
        eventually(lambda: cloud.host_mappings().get("compute-9") == "cell2", 120, f"the mapping; see {program.log}")
        found = program.json("check")
        program.stop()
    assert [line for line in found if line["check"].startswith("broker") and line["result"] == "failure"] == []
