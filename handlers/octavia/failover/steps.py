"""The facts about one amphora, and the possible decisions, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from handlers.octavia import records
from handlers.octavia.cloud_objects import DESCRIBABLE, LEASE, PRESERVED, SINCE, STATE, Group, Image, Port, Server
from handlers.octavia.failover.heartbeats import Heard
from handlers.octavia.preserved.pool import Preserved, State
from handlers.octavia.rebuild import Remains


class StepName(StrEnum):
    #: Nova stops a server, because it changes no marks of a server in ERROR
    STOP = "stop"
    #: the server gets its tag and its number
    MARK = "mark"
    #: the server loses its tag and its number
    UNMARK = "unmark"
    #: a heartbeat in the future keeps Octavia's health manager off; it expires by itself
    LEASE = "lease"
    #: Nova makes an image of the disk
    IMAGE = "image"
    #: a complete image is protected
    SEAL = "seal"
    #: an image is deleted that is incomplete, or was made twice
    DROP_IMAGE = "drop-image"
    #: a server is deleted whose image is preserved
    DROP_SERVER = "drop-server"
    #: Nova is asked to detach all ports, that of the VIP first
    UNPLUG = "unplug"
    #: Neutron sets all ports down, where the host is dead or the deadline has passed
    QUARANTINE = "quarantine"
    #: Octavia forgets the server, so that the failover leaves it alone, and is asked for the failover
    LET_GO = "let-go"
    #: the row of an amphora on no load balancer becomes DELETED, without its server, which is preserved
    FORGET = "forget"
    #: Octavia replaces the amphora
    FAILOVER = "failover"
    #: Octavia replaces all amphorae of a load balancer in ERROR
    REBUILD = "failover-load-balancer"
    #: the preserved server is renamed and locked, and its marks become final
    LABEL = "label"
    #: scheme cycle: the oldest preserved amphora is deleted
    TRIM = "trim"
    #: DELETED rows are taken off the load balancer, whose next update would fail because of them
    DETACH = "detach"
    #: a preserved server gives up its host, and so its place in a server group
    SHELVE = "shelve"


#: the steps that one heal may take after a step, each after its own proof, up to the request of the failover
THEN: Mapping[StepName, tuple[StepName, ...]] = {
    StepName.MARK: (StepName.LEASE, StepName.UNPLUG, StepName.QUARANTINE, StepName.LET_GO),
    StepName.LEASE: (StepName.UNPLUG, StepName.QUARANTINE, StepName.LET_GO),
    StepName.UNPLUG: (StepName.LET_GO,),
    StepName.QUARANTINE: (StepName.LET_GO,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """:param now: the time by this host's clock
    :param server: the server that the row names; if it names none, the server whose mark names the amphora
    :param images: images of the server that stackmend made for preservation; empty when not needed
    :param others: other amphorae that are preserved or marked for preservation; empty when not needed
    """

    amphora: records.Amphora
    now: datetime
    server: Server | None = None
    ports: Sequence[Port] = ()
    images: Sequence[Image] = ()
    others: Sequence[Preserved] = ()

    @property
    def marked(self) -> bool:
        return self.server is not None and PRESERVED in self.server.tags

    @property
    def since(self) -> str:
        return self.server.metadata.get(SINCE, "") if self.server is not None else ""

    @property
    def detaching(self) -> bool:
        return self.server is not None and self.server.metadata.get(STATE) == State.DETACHING

    @property
    def connected(self) -> list[Port]:
        """The server's ports that are not set down: first the VRRP port, then member ports, then other ports."""

        def order(port: Port) -> tuple[bool, bool, str]:
            return (port.id != self.amphora.vrrp_port_id, not port.name.startswith("octavia-lb-"), port.id)

        return sorted((port for port in self.ports if port.admin_up), key=order)

    @property
    def unfinished(self) -> tuple[str, ...]:
        return tuple(sorted(image.id for image in self.images if not image.protected))

    @property
    def sealed(self) -> Image | None:
        return next((image for image in self.images if image.protected), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation(Reading):
    """An amphora that is on a load balancer and is not DELETED.

    :param failing: ids of other amphorae that are silent, or recently failed or were replaced
    :param neighbours: amphorae of ``failing`` whose servers are on this amphora's host
    :param unsettled: seconds until silence can prove a failure
    :param group: the load balancer's security group; read only when load balancer or amphora is in ERROR
    :param attempts: failovers that failed to replace the load balancer's amphorae; 0 if ``group`` was not read
    :param surplus: whether the load balancer is whole without this amphora, which is in ERROR
    :param shared: the amphora's server or VRRP port if another row names it too; otherwise empty
    """

    balancer: records.LoadBalancer
    health: records.Health | None = None
    failing: Sequence[str] = ()
    neighbours: Sequence[str] = ()
    heard: Heard
    unsettled: float = 0.0
    group: Group | None = None
    attempts: int = 0
    remains: Remains | None = None
    surplus: bool = False
    shared: str = ""

    @property
    def serves(self) -> bool:
        """Whether the amphora serves, so that Octavia's health manager watches it."""
        return self.amphora.status in records.SERVING

    @property
    def forgotten(self) -> bool:
        """Whether the row no longer names the server, and Octavia has not replaced the amphora yet."""
        return self.amphora.status == "ERROR" and self.amphora.compute_id is None

    @property
    def leases(self) -> tuple[str, ...]:
        """The ends of the last heartbeat leases in ISO format, the newest first; empty where Nova takes no metadata."""
        if self.server is None or self.server.status not in DESCRIBABLE:
            return ()
        return tuple(self.server.metadata.get(LEASE, "").split())

    def end_of_lease(self, seconds: float) -> datetime | None:
        """Return the end of a lease that begins now, by the database's clock, in whole seconds as in MySQL.

        :return: None without a heartbeat record, because the health manager then never replaces the amphora
        """
        if self.health is None or self.health.last_update is None:
            return None
        now = self.health.last_update + timedelta(seconds=self.health.silent)
        return now.replace(microsecond=0) + timedelta(seconds=seconds)

    @property
    def leased(self) -> bool:
        """Whether a heartbeat lease is active. Any other heartbeat in the future comes from a clock that is ahead."""
        if not self.marked or self.health is None or self.health.silent >= -records.SKEW:
            return False
        at = self.health.last_update
        return not self.leases or at is None or at.isoformat() in self.leases

    @property
    def begun(self) -> bool:
        return self.marked or self.forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Deactivated(Reading):
    """An amphora in ERROR on no load balancer: no health manager watches it, and no failover follows."""

    balancer: None = None
    health: None = None

    @property
    def serves(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced(Reading):
    """An amphora whose row is DELETED.

    :param balancer: None when the row is on no load balancer
    :param rows: ids of amphorae whose DELETED rows stackmend must detach from the load balancer
    :param named: ids of preserved servers that the rows of amphorae name, so that stackmend must not delete them
    """

    balancer: records.LoadBalancer | None
    rows: Sequence[str] = ()
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """The decision to take a step.

    :param summary: the step's effect, in the infinitive
    :param objects: ids that the step concerns
    """

    name: StepName
    summary: str
    why: str = ""
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """The decision to inspect again later.

    :param after: seconds until the next inspection
    """

    reason: str
    after: float = 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """The decision to change nothing, and to report the amphora.

    :param reason: why stackmend does not heal the amphora
    :param why: the sign that the amphora failed
    """

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The decision that nothing is wrong, or that another handler is responsible."""


Decision = Step | Wait | Report | Nothing
AnyReading = Situation | Deactivated | Replaced
