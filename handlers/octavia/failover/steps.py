"""What the recovery of a failed amphora is decided on and what can be decided, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from handlers.octavia import records
from handlers.octavia.cloud_objects import PRESERVED, SINCE, Image, Port, Server
from handlers.octavia.preserved import pool


@dataclass(frozen=True, slots=True)
class Situation:
    """One reading of all that matters for an amphora.

    :param balancer: None for a row that is DELETED and already taken off
    :param now: by our clock
    :param server: its server; once the row has forgotten it, the one that is marked with the amphora's id
    :param ports: the server's
    :param images: made of it for preservation
    :param others: what else is kept or about to be
    :param failing: other amphorae that failed or were failed over lately
    :param neighbours: those of them whose servers are on the same host
    :param replaced: amphorae whose rows are DELETED and still on the load balancer
    """

    amphora: records.Amphora
    balancer: records.LoadBalancer | None
    health: records.Health | None
    now: datetime
    server: Server | None = None
    ports: Sequence[Port] = ()
    images: Sequence[Image] = ()
    others: Sequence[pool.Kept] = ()
    failing: Sequence[str] = ()
    neighbours: Sequence[str] = ()
    replaced: Sequence[str] = ()

    @property
    def marked(self) -> bool:
        """Whether its server is marked as being preserved."""
        return self.server is not None and PRESERVED in self.server.tags

    @property
    def since(self) -> str:
        """The mark's number."""
        return self.server.metadata.get(SINCE, "") if self.server is not None else ""

    @property
    def served(self) -> records.LoadBalancer:
        """The load balancer, of an amphora that is on one."""
        assert self.balancer is not None
        return self.balancer

    @property
    def connected(self) -> list[Port]:
        """The server's ports that are not set down: the VIP's, those to members, the others."""

        def order(port: Port) -> tuple[bool, bool, str]:
            return (port.id != self.amphora.vrrp_port_id, not port.name.startswith("octavia-lb-"), port.id)

        return sorted((port for port in self.ports if port.admin_up), key=order)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Images of it that were never completed."""
        return tuple(sorted(image.id for image in self.images if not image.protected))

    @property
    def sealed(self) -> Image | None:
        """The image that is kept of it."""
        return next((image for image in self.images if image.protected), None)


@dataclass(frozen=True, slots=True)
class Step:
    """Do this.

    :param what: its slug, as in the table of :mod:`handlers.octavia.failover.rules`
    :param summary: what it will do, in the infinitive
    :param why: why the amphora is taken for failed, or a detail of the choice
    :param objects: ids of what it works on
    """

    what: str
    summary: str
    why: str = ""
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later.

    :param after: seconds
    """

    reason: str
    after: float = 2.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Touch nothing, tell somebody."""

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing is wrong, or it is not ours to mend."""


Decision = Step | Wait | Hold | Nothing
