"""The spare pool as Nova shows it: which servers are placeholders, what is missing or too much, and how one is handed over.

A placeholder is a server of Octavia's project whose name begins with :data:`~handlers.octavia.cloud_objects.SPARE_PREFIX` and
whose metadata names its pool. While it has the tag :data:`~handlers.octavia.cloud_objects.SPARE` it belongs to the pool;
whoever takes the tag away has claimed it, and nobody else can. So a placeholder without the tag is being deleted, or its
claimant died: ``spare_pool`` deletes it. One that an operator was given (``released``) is nobody's business any more.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from handlers.octavia import polling, queries, records
from handlers.octavia.cloud_objects import AMPHORA_PREFIX, SPARE, SPARE_PREFIX, STATE, Server
from handlers.octavia.housekeeping import NotFoundError, UnavailableException
from handlers.octavia.settings import HousekeepingSettings

if TYPE_CHECKING:
    from handlers.octavia.drivers.base import Driver

LOG = logging.getLogger(__name__)

#: metadata of a placeholder: the zone of its pool
ZONE = "stackmend_zone"
#: metadata of a placeholder: the id of the flavor of its pool; none where that is Octavia's ``amp_flavor_id``
FLAVOR = "stackmend_flavor"
#: the pool of placeholders that Nova may put anywhere
ANY = "any"
#: :data:`~handlers.octavia.cloud_objects.STATE` of a placeholder that an operator was given
RELEASED = "released"

#: seconds after which a row that still says PENDING_CREATE or BOOTING is no build any more: Octavia waits 300 for the boot
#: and 600 for the agent (``amp_active_retries``, ``connection_max_retries``)
LONGEST_BUILD = 1800.0

#: seconds to wait for Nova to delete a placeholder that was claimed; its room is free at that moment
_RELEASE = 30.0

#: states of an amphora's row while it is built
_BUILDING = frozenset({"PENDING_CREATE", "BOOTING"})
#: states of an amphora's row that only a failover under way has beside PENDING_UPDATE of the load balancer
_REPLACED = _BUILDING | {"PENDING_DELETE", "ERROR"}


@dataclass(frozen=True, slots=True)
class Pool:
    """The placeholders of one flavor in one zone.

    :param flavor: its id; empty for Octavia's ``amp_flavor_id``
    :param wanted: how many there should be; 0 for a zone or flavor that is not configured
    :param ready: stopped, on a host that answers as far as is known
    :param running: built, and to be stopped
    :param coming: being built, or in between two states
    :param asleep: stopped on a host that is down: not counted, and not deleted, for the host may return
    :param failed: in ERROR, or in a state that nobody of ours put it into
    :param claimed: without the tag: to be deleted
    """

    zone: str
    flavor: str
    wanted: int
    ready: tuple[Server, ...] = ()
    running: tuple[Server, ...] = ()
    coming: tuple[Server, ...] = ()
    asleep: tuple[Server, ...] = ()
    failed: tuple[Server, ...] = ()
    claimed: tuple[Server, ...] = ()

    @property
    def name(self) -> str:
        """How keys, and the names of its placeholders, call it."""
        return f"{self.zone}/{self.flavor}" if self.flavor else self.zone

    @property
    def present(self) -> tuple[Server, ...]:
        """What is or will be ready."""
        return self.ready + self.running + self.coming

    @property
    def missing(self) -> int:
        """How many are to be built."""
        return max(0, self.wanted - len(self.present))

    @property
    def surplus(self) -> tuple[Server, ...]:
        """What is too much: the youngest; of what is being built only later, for Nova takes no tag off it."""
        over = max(0, len(self.present) - self.wanted)
        youngest = sorted(self.ready + self.running, key=lambda server: (server.age, server.id))
        return (*youngest[:over], *(self.asleep if self.wanted == 0 else ()))


def is_placeholder(server: Server) -> bool:
    """Whether a server was made for the pool and not given away."""
    return server.name.startswith(SPARE_PREFIX) and ZONE in server.metadata and server.metadata.get(STATE) != RELEASED


def pool(zone: str, flavor: str, wanted: int, servers: Iterable[Server]) -> Pool:
    """Sort the placeholders of one pool by what is to be done with them."""
    sorted_out: dict[str, list[Server]] = {}
    for server in servers:
        if is_placeholder(server) and _where(server) == (zone, flavor):
            sorted_out.setdefault(_state(server), []).append(server)
    return Pool(zone, flavor, wanted, **{name: tuple(found) for name, found in sorted_out.items()})


def _where(server: Server) -> tuple[str, str]:
    """Zone and flavor of a placeholder's pool."""
    return server.metadata[ZONE], server.metadata.get(FLAVOR, "")


def _state(server: Server) -> str:
    if SPARE not in server.tags:
        return "claimed"
    if server.status == "BUILD" or server.task_state is not None:
        return "coming"
    if server.status == "SHUTOFF":
        return "asleep" if server.host_up is False else "ready"
    return "running" if server.status == "ACTIVE" else "failed"


def pools(servers: Sequence[Server], settings: HousekeepingSettings) -> list[Pool]:
    """Every pool that there should be or is, the configured ones first and in their order."""
    configured = list(product(settings.spare_amphora_zones or (ANY,), settings.spare_amphora_flavors or ("",)))
    found = {_where(server) for server in servers if is_placeholder(server)}
    return [
        *(pool(*where, settings.spare_amphora_pool_size, servers) for where in configured),
        *(pool(*where, 0, servers) for where in sorted(found.difference(configured))),
    ]


def deploying(servers: Iterable[Server], rows: Iterable[records.Amphora]) -> int:
    """How many amphorae and placeholders are building, Octavia's own counted.

    A row that has said so for longer than any build is a dead worker's, and does not count; nor does the same amphora
    twice, by its row and by its server.
    """
    of_octavia = {row.id for row in rows if row.status in _BUILDING and row.age < LONGEST_BUILD}
    building = [server for server in servers if server.status == "BUILD"]
    named = {server.name.removeprefix(AMPHORA_PREFIX) for server in building if server.name.startswith(AMPHORA_PREFIX)}
    return len(of_octavia | named) + sum(map(is_placeholder, building))


def failing_over(balancers: Iterable[records.LoadBalancer], rows: Iterable[records.Amphora]) -> frozenset[str]:
    """Load balancers whose amphora is being replaced: the room that was made for it must not be taken again."""
    replaced = {row.load_balancer_id for row in rows if row.status in _REPLACED}
    return frozenset(
        balancer.id
        for balancer in balancers
        if balancer.status == "PENDING_UPDATE" and balancer.age < LONGEST_BUILD and balancer.id in replaced
    )


def next_to_fill(found: Sequence[Pool]) -> Pool | None:
    """The one pool for which spares may be built now, so that two replicas never build for two at once.

    One in which a spare has failed to build is passed over: there is no room.
    """
    return next((one for one in found if one.missing and not one.failed), None)


def begin(driver: Driver, number: int) -> list[str]:
    """Begin to build placeholders, no more than a pool lacks and than may be building at once; return their ids.

    :raises AmphoraDriverError: see :mod:`handlers.octavia.housekeeping`
    """
    servers = driver.servers()
    room = driver.settings.maximum_deploying_amphora_count - deploying(servers, driver.database.run(queries.amphorae))
    short = next_to_fill(pools(servers, driver.settings))
    if short is None:
        return []
    return [_create(driver, short) for _ in range(min(number, room, short.missing))]


def _create(driver: Driver, pool: Pool) -> str:
    name = f"{SPARE_PREFIX}{pool.name}-{uuid.uuid4().hex[:8]}"
    marks = {ZONE: pool.zone} | ({FLAVOR: pool.flavor} if pool.flavor else {})
    return driver.create_server(name, None if pool.zone == ANY else pool.zone, SPARE, marks, pool.flavor)


def release_spare(
    driver: Driver, zone: str | None, other_than_hosts: Collection[str] = (), flavor: str | None = None
) -> str | None:
    """Hand a spare over: delete one, so that a failover requested right after finds room; return its id.

    It is claimed by taking its tag away, which succeeds for one caller only, then deleted; Nova is waited for, half a
    minute at most. A caller that dies in between leaves a claimed placeholder, which ``spare_pool`` deletes.

    :param zone: where the new amphora will be built; None where Octavia does not say
    :param other_than_hosts: where the new amphora may not stand
    :param flavor: id of the new amphora's; None where Octavia does not say
    :return: None when no spare is ready there
    :raises AmphoraDriverError: see :mod:`handlers.octavia.housekeeping`
    """
    for spare in _eligible(driver.servers(), zone, other_than_hosts, flavor):
        try:
            ours = driver.untag_server(spare.id, SPARE)
        except NotFoundError:
            continue
        if ours:
            driver.delete_server(spare.id)
            if not polling.until(partial(_is_gone, driver, spare.id), _RELEASE):
                LOG.warning("spare %s is not deleted yet; the failover may not find its room", spare.id)
            LOG.info("spare %s on host %s made room for a failover", spare.id, spare.host)
            return spare.id
    return None


def make_room(driver: Driver, amphora: records.Amphora) -> str | None:
    """Hand a spare over to the one that will replace this amphora: :func:`release_spare` where Nova may put that.

    A failover does not wait for what cannot be told of spares: it may find room without one.

    :raises AmphoraDriverError: see :mod:`handlers.octavia.housekeeping`
    """
    try:
        return release_spare(driver, amphora.zone, _taken(driver, amphora), amphora.compute_flavor)
    except UnavailableException as error:
        LOG.warning("no spare makes room for what replaces amphora %s: %s", amphora.id, error)
        return None


def _is_gone(driver: Driver, server: str) -> bool:
    return driver.server(server) is None


def _taken(driver: Driver, amphora: records.Amphora) -> frozenset[str]:
    """Hosts on which its replacement may not stand: the survivor's, and in a server group its own, until it is deleted."""
    pair = (
        driver.database.run(partial(queries.amphorae_of, load_balancer=amphora.load_balancer_id))
        if amphora.load_balancer_id
        else []
    )
    standing = [row for row in pair if row.id != amphora.id and row.status in records.SERVING]
    servers = [driver.server(row.compute_id) for row in (*standing, amphora) if row.compute_id]
    return frozenset(
        server.host
        for server in servers
        if server is not None and server.host and (server.groups or server.id != amphora.compute_id)
    )


def _eligible(servers: Iterable[Server], zone: str | None, taken: Collection[str], flavor: str | None) -> list[Server]:
    """Spares that are ready, those in the zone first; one of another zone only if Nova had chosen where it stands.

    Then those of the flavor come first, and those of ``amp_flavor_id`` before any other's.
    """
    ready = [
        server
        for server in servers
        if is_placeholder(server)
        and _state(server) == "ready"
        and server.host not in taken
        and (zone is None or server.zone == zone or server.metadata[ZONE] in {zone, ANY})
    ]
    order = [flavor, ""]

    def rank(server: Server) -> tuple[bool, int, float, str]:
        of = server.metadata.get(FLAVOR, "")
        return server.zone != zone, order.index(of) if of in order else len(order), -server.age, server.id

    return sorted(ready, key=rank)
