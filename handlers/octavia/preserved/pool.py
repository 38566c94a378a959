"""The amphorae that are kept for examination: read from the marks in the cloud, which is the only memory of them.

A preserved server carries the tag :data:`~handlers.octavia.cloud_objects.PRESERVED`; an image counts once it is protected. The
order of two marks is decided as in Lamport's bakery: a server is tagged first, then the others are read, then it gets the
next number (a time, later than all that are there). Whoever reads the marks after its own number is written knows for good
who was before it, whatever others do at the same time; so no more than the maximum is ever kept, without any lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from handlers.octavia.cloud_objects import (
    AMPHORA,
    LOAD_BALANCER,
    METHOD,
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

#: values of the mark :data:`~handlers.octavia.cloud_objects.STATE`: begun; Nova was asked for the network; done; given away
PRESERVING, DETACHING, KEPT, RELEASED = "preserving", "detaching", "preserved", "released"

#: states of a task of Nova's with which a server goes
LEAVING = frozenset({"deleting", "soft-deleting"})


@dataclass(frozen=True, slots=True)
class Kept:
    """An amphora that is kept, or is about to be.

    :param since: its number; empty for one that has none yet
    """

    amphora: str
    server: Server | None
    image: Image | None

    @property
    def since(self) -> str:
        """Its number: when it was marked; empty for one that has none yet."""
        return self._mark(SINCE)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do for it."""
        if self.server is not None:
            return self.server.metadata.get(STATE) == KEPT
        return self.image is not None

    @property
    def load_balancer(self) -> str:
        """The load balancer that it served."""
        return self._mark(LOAD_BALANCER)

    @property
    def reason(self) -> str:
        """Why it was taken for failed."""
        return self._mark(REASON)

    @property
    def method(self) -> str:
        """How it is kept."""
        return self._mark(METHOD)

    def _mark(self, name: str) -> str:
        here = self.server.metadata.get(name, "") if self.server is not None else ""
        return here or (self.image.properties.get(name, "") if self.image is not None else "")


def read(driver: Driver) -> list[Kept]:
    """Return everything that is kept or about to be, oldest first.

    :raises AmphoraDriverError: when that cannot be told
    """
    return assemble(driver.servers(), driver.images())


def assemble(servers: Iterable[Server], images: Iterable[Image]) -> list[Kept]:
    """Return what is kept, oldest first, of these servers and images; a server and its image are one amphora."""
    marked = {
        server.metadata.get(AMPHORA) or server.id: server
        for server in servers
        if PRESERVED in server.tags and server.task_state not in LEAVING
    }
    sealed = {image.properties[AMPHORA]: image for image in images if AMPHORA in image.properties and image.protected}
    kept = [Kept(one, marked.get(one), sealed.get(one)) for one in marked.keys() | sealed.keys()]
    return sorted(kept, key=lambda one: (one.since, one.amphora))


def obstacle(server: Server, deadline: float) -> str:
    """Say why a server will never be marked: Nova changes no marks of one in ERROR, nor while it works on it.

    :param deadline: seconds for which Nova's work is waited for
    :return: empty when it can be marked, or may be soon
    """
    if server.task_state and server.quiet > deadline:
        return f"Nova has been working on its server for too long: {server.task_state}"
    given_up = not server.task_state and server.name.startswith(PRESERVED_PREFIX)
    if server.status == "ERROR" and (given_up or server.host_up is False):
        return "its server is in ERROR, and Nova cannot stop it"
    return ""


def is_about(server: Server, amphora: str) -> bool:
    """Whether a server is marked as this amphora's."""
    return PRESERVED in server.tags and server.metadata.get(AMPHORA) == amphora


def next_number(kept: Sequence[Kept], now: datetime) -> str:
    """Return a number later than all that are there: this moment, or just after the last."""
    numbers = [when for one in kept if (when := parsed(one.since)) is not None]
    return max([now, *(number + timedelta(microseconds=1) for number in numbers)]).isoformat(timespec="microseconds")


def parsed(since: str) -> datetime | None:
    """Return a number as the time that it is; None for none, or one that somebody else wrote there."""
    try:
        when = datetime.fromisoformat(since)
    except ValueError:
        return None
    return when if when.tzinfo is not None else None


def discard(driver: Driver, one: Kept) -> None:
    """Delete an amphora that is kept, wholly: server, image, and ports that Octavia made for it.

    Done again after an interruption, it does what is left.

    :raises AmphoraDriverError: when a part of it could not be asked for
    """
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
        for port in driver.ports():
            if port.name in own and port.device_id in {"", one.server.id}:
                driver.delete_port(port)
