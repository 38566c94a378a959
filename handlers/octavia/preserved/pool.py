"""The pool of preserved amphorae, read from their marks in the cloud.

A preserved server has the tag :data:`~handlers.octavia.cloud_objects.PRESERVED`; a preserved image is protected.

Lamport's bakery algorithm orders the amphorae. A replica tags the server, then reads the marks of other servers, then writes
the number into the server's mark. The number is a time later than all numbers that the replica read. So replicas together do
not exceed the pool's maximum, without a lock. With ``preservation_scheme = cycle``, they exceed the maximum until the oldest
amphora is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from handlers.base import Conflict, Refused
from handlers.octavia import cloud_objects, queries
from handlers.octavia.cloud_objects import (
    AMPHORA,
    LOAD_BALANCER,
    METHOD,
    OWNER,
    PRESERVED,
    PRESERVED_PREFIX,
    REASON,
    SINCE,
    STATE,
    Image,
    Server,
)
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import NotFoundError


class State(StrEnum):
    """The progress of a server's preservation, stored in the server's metadata."""

    #: marked
    PRESERVING = "preserving"
    #: Nova was asked to detach the ports
    DETACHING = "detaching"
    #: the load balancer has its replacement
    PRESERVED = "preserved"
    #: an operator took it
    RELEASED = cloud_objects.RELEASED


#: the tasks with which Nova deletes a server
LEAVING = frozenset({"deleting", "soft-deleting"})


@dataclass(frozen=True, slots=True)
class Preserved:
    amphora: str
    server: Server | None
    image: Image | None

    @property
    def since(self) -> str:
        """The amphora's number, the time of the mark; empty when no number is written yet."""
        return self._mark(SINCE)

    @property
    def complete(self) -> bool:
        if self.server is not None:
            return self.server.metadata.get(STATE) == State.PRESERVED
        return self.image is not None

    @property
    def load_balancer(self) -> str:
        return self._mark(LOAD_BALANCER)

    @property
    def reason(self) -> str:
        return self._mark(REASON)

    @property
    def method(self) -> str:
        return self._mark(METHOD)

    def _mark(self, name: str) -> str:
        of_server = self.server.metadata.get(name, "") if self.server is not None else ""
        return of_server or (self.image.properties.get(name, "") if self.image is not None else "")


def read(driver: Driver) -> list[Preserved]:
    return assemble(driver.servers(), driver.images(), driver.settings.spare_owner)


def is_ours(marks: Mapping[str, str], owner: str) -> bool:
    """Return whether an object belongs to the stackmend named ``owner``. An object without an owner's name counts too.

    :param marks: a server's metadata or an image's properties
    :param owner: the option ``spare_amphora_owner``
    """
    return marks.get(OWNER, owner) == owner


def assemble(servers: Iterable[Server], images: Iterable[Image], owner: str) -> list[Preserved]:
    """Return the amphorae of ``owner`` that are preserved or marked for preservation, ordered by number.

    Server and image of one amphora count once.
    """
    marked = {
        server.metadata.get(AMPHORA) or server.id: server
        for server in servers
        if PRESERVED in server.tags and server.task_state not in LEAVING and is_ours(server.metadata, owner)
    }
    sealed = {
        image.properties[AMPHORA]: image
        for image in images
        if AMPHORA in image.properties and image.protected and is_ours(image.properties, owner)
    }
    found = [Preserved(one, marked.get(one), sealed.get(one)) for one in marked.keys() | sealed.keys()]
    return sorted(found, key=lambda one: (one.since, one.amphora))


def obstacle(server: Server, deadline: float) -> str:
    """Return why a server will never accept a mark: Nova cannot end its ERROR, or has worked on it for too long.

    :param deadline: seconds to wait for Nova's work
    :return: empty when the server accepts marks now, or perhaps later
    """
    if server.task_state and server.quiet > deadline:
        return f"Nova has been working on its server for too long: {server.task_state}"
    given_up = not server.task_state and server.name.startswith(PRESERVED_PREFIX)
    if server.status == "ERROR" and (given_up or server.host_up is False):
        return "its server is in ERROR, and Nova cannot stop it"
    return ""


def is_detaching(server: Server) -> bool:
    return PRESERVED in server.tags and server.metadata.get(STATE) == State.DETACHING


def is_about(server: Server, amphora: str) -> bool:
    return PRESERVED in server.tags and server.metadata.get(AMPHORA) == amphora


def next_number(preserved: Sequence[Preserved], now: datetime) -> str:
    """Return a number later than all others: the time ``now``, or a time just after the latest number."""
    numbers = [when for one in preserved if (when := parsed(one.since)) is not None]
    return max([now, *(number + timedelta(microseconds=1) for number in numbers)]).isoformat(timespec="microseconds")


def parsed(since: str) -> datetime | None:
    """Return the time that a mark's number stands for; None if the text is not such a number."""
    try:
        when = datetime.fromisoformat(since)
    except ValueError:
        return None
    return when if when.tzinfo is not None else None


def restoring(server: Server) -> str:
    """Return the command that gives a server its present mark again."""
    marks = {name: server.metadata.get(name, "") for name in (AMPHORA, SINCE, STATE)}
    properties = " ".join(f"--property {name}={value}" for name, value in marks.items())
    return f"openstack --os-compute-api-version 2.26 server set --tag {PRESERVED} {properties} {server.id}"


def _require_unreleased(driver: Driver, one: Preserved) -> None:
    server = driver.server(one.server.id) if one.server is not None else None
    image = driver.image(one.image.id) if one.image is not None else None
    if server is not None and not (PRESERVED in server.tags and server.metadata.get(STATE) != State.RELEASED):
        raise Conflict(f"server {server.id} is no longer preserved")
    if image is not None and image.properties.get(STATE) == State.RELEASED:
        raise Conflict(f"image {image.id} is no longer preserved")


def discard(driver: Driver, one: Preserved) -> None:
    """Delete a preserved amphora's image, server and ports. After an error, call again.

    :raises Conflict: an operator has released the server or the image since ``one`` was read
    :raises Refused: the row of an amphora names the server
    """
    _require_unreleased(driver, one)
    if one.server is not None and driver.database.run(partial(queries.named_servers, servers={one.server.id})):
        raise Refused(f"the row of an amphora names server {one.server.id}, so it is not deleted")
    if one.image is not None:
        try:
            driver.unseal_image(one.image.id)
        except NotFoundError:
            pass
        else:
            driver.delete_image(one.image.id)
    if one.server is not None:
        driver.delete_server(one.server.id)
        own = {f"octavia-lb-vrrp-{one.amphora}", f"octavia-lb-member-{one.amphora}"}
        used = driver.database.run(queries.used_ports)
        for port in driver.ports():
            if port.name in own and port.id not in used and port.device_id in {"", one.server.id}:
                driver.delete_port(port)
