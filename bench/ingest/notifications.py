"""The messages: captured notifications about instances, each made unique, exactly one in twenty of a wanted type.

They are made from the same seed each time, so every consumer of every run gets the same bytes in the same order.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The types that are mapped to keys.
WANTED = ("instance.create.end", "instance.delete.end")

#: One message in so many is of a wanted type.
ONE_IN = 20

#: How many instances the wanted messages are about, at most.
INSTANCES = 500

#: What identifies a message, in a notification that is a JSON text inside a JSON text.
_MESSAGE_ID = re.compile(r'(\\"message_id\\": \\")[^"\\]*')
_UNIQUE_ID = re.compile(r'(\\"_unique_id\\": \\")[^"\\]*')


@dataclass(frozen=True, slots=True)
class Workload:
    """Messages to take, and the instances that the wanted ones among them are about."""

    bodies: Sequence[bytes]
    instances: frozenset[str]

    @property
    def mean_size(self) -> float:
        """Bytes per message."""
        return sum(map(len, self.bodies)) / len(self.bodies)


def captured(file: Path) -> dict[str, list[str]]:
    """Return the versioned notifications that work on instances causes, by event type, as they stood on the bus."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in file.read_text().splitlines():
        message = json.loads(line)
        if message["routing_key"].startswith("versioned_notifications."):
            event_type = _notification(message["body"])["event_type"]
            if event_type.startswith(("instance.", "scheduler.")):
                found[event_type].append(message["body"])
    return found


def workload(file: Path, messages: int) -> Workload:
    """Make the messages.

    :param file: the captured notifications
    :param messages: how many; a multiple of ``ONE_IN``
    """
    chance = random.Random(20261122)
    bodies = captured(file)
    others = [body for event_type in sorted(bodies) if event_type not in WANTED for body in bodies[event_type]]
    instances = [_uuid(chance) for _ in range(min(INSTANCES, messages // ONE_IN))]
    made = []
    for block in range(messages // ONE_IN):
        place = chance.randrange(ONE_IN)
        for position in range(ONE_IN):
            if position == place:
                # Each instance is created and deleted in turn, as often as it comes up.
                lap, number = divmod(block, len(instances))
                body = _about(chance.choice(bodies[WANTED[lap % len(WANTED)]]), instances[number])
            else:
                body = chance.choice(others)
            made.append(_unique(body, chance).encode())
    return Workload(made, frozenset(instances))


def _notification(body: str) -> Any:
    return json.loads(json.loads(body)["oslo.message"])


def _about(body: str, instance: str) -> str:
    """Move a notification to another instance."""
    return body.replace(_notification(body)["payload"]["nova_object.data"]["uuid"], instance)


def _unique(body: str, chance: random.Random) -> str:
    body = _MESSAGE_ID.sub(rf"\g<1>{_uuid(chance)}", body, count=1)
    return _UNIQUE_ID.sub(rf"\g<1>{_uuid(chance).replace('-', '')}", body, count=1)


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
