"""The pools of spares, as Nova shows them.

A placeholder is a server of Octavia's project that reserves room for a failover. Its name begins with
:data:`~handlers.octavia.cloud_objects.SPARE_PREFIX`. Its metadata name its zone, flavor and owner (``spare_amphora_owner``).
With the tag :data:`~handlers.octavia.cloud_objects.SPARE`, a placeholder is a spare.

A failover claims a spare: it removes the tag, which only one caller can do, and deletes the server. If this caller dies, the
handler ``spare_pool`` deletes the server. An operator can release a placeholder, and then owns it. A locked placeholder counts
in no pool, and stackmend neither claims, stops nor deletes it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from handlers.base import HandlerError
from handlers.octavia import cloud_objects, queries, records
from handlers.octavia.cloud_objects import AMPHORA_PREFIX, SPARE, SPARE_PREFIX, STATE, Server
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError
from handlers.octavia.settings import HousekeepingSettings

if TYPE_CHECKING:
    from handlers.octavia.drivers.base import Driver

LOG = logging.getLogger(__name__)

#: metadata of a placeholder: the zone of its pool
ZONE = "stackmend_zone"
#: metadata of a placeholder: the id of its pool's flavor; missing for Octavia's ``amp_flavor_id``
FLAVOR = "stackmend_flavor"
#: metadata of a placeholder: ``spare_amphora_owner`` of the stackmend that created it
OWNER = cloud_objects.OWNER
#: the zone of a pool whose placeholders Nova may put anywhere
ANY = "any"
#: :data:`~handlers.octavia.cloud_objects.STATE` of a placeholder that belongs to an operator
RELEASED = "released"

#: servers that the quotas of Octavia's project must leave free: the amphorae of one load balancer
RESERVE = 2

#: recorded attempts from which on no spare goes: the pool is not filled until a failover succeeds, so the room stays free
_ATTEMPTS = 1

#: states of an amphora's row during its build
_BUILDING = frozenset({"PENDING_CREATE", "BOOTING"})
#: states of an amphora's row during a failover, while its load balancer is PENDING_UPDATE
_REPLACED = _BUILDING | {"PENDING_DELETE", "ERROR"}


@dataclass(frozen=True, slots=True)
class Pool:
    """The placeholders of one flavor in one zone. All but ``claimed`` are spares.

    :param flavor: the flavor's id; empty for Octavia's ``amp_flavor_id``
    :param wanted: the pool's size; 0 for a zone or flavor that is not configured
    :param excess: number of spares to delete, because the quotas leave Octavia too little room
    :param ready: stopped on a host that is not known to be down
    :param running: built, but not yet stopped
    :param coming: in BUILD, or Nova is working on the server
    :param asleep: stopped on a host that is down; not counted, and not deleted while the pool is configured
    :param failed: in ERROR, or in a state that stackmend does not set
    :param claimed: placeholders without the tag of a spare, which ``spare_pool`` deletes
    """

    zone: str
    flavor: str
    wanted: int
    excess: int = 0
    ready: tuple[Server, ...] = ()
    running: tuple[Server, ...] = ()
    coming: tuple[Server, ...] = ()
    asleep: tuple[Server, ...] = ()
    failed: tuple[Server, ...] = ()
    claimed: tuple[Server, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.zone}/{self.flavor}" if self.flavor else self.zone

    @property
    def present(self) -> tuple[Server, ...]:
        return self.ready + self.running + self.coming

    @property
    def missing(self) -> int:
        return max(0, self.wanted - len(self.present))

    @property
    def surplus(self) -> tuple[Server, ...]:
        """The spares to delete: the youngest ones beyond the pool's size or the quotas, and all in ``asleep`` if the size is 0.

        Spares in ``coming`` stay, because Nova refuses to remove the tag of a server in BUILD.
        """
        over = max(self.excess, len(self.present) - self.wanted, 0)
        youngest = sorted(self.ready + self.running, key=lambda server: (server.age, server.id))
        return (*youngest[:over], *(self.asleep if self.wanted == 0 else ()))


def is_placeholder(server: Server) -> bool:
    """Return whether a server is a placeholder of any stackmend, and no operator has released it."""
    return server.name.startswith(SPARE_PREFIX) and ZONE in server.metadata and server.metadata.get(STATE) != RELEASED


def is_ours(server: Server, owner: str) -> bool:
    return is_placeholder(server) and server.metadata.get(OWNER, "") == owner


def pool(zone: str, flavor: str, wanted: int, servers: Iterable[Server]) -> Pool:
    own = [server for server in servers if _where(server) == (zone, flavor)]

    def of(state: str) -> tuple[Server, ...]:
        return tuple(server for server in own if _state(server) == state)

    return Pool(
        zone,
        flavor,
        wanted,
        ready=of("ready"),
        running=of("running"),
        coming=of("coming"),
        asleep=of("asleep"),
        failed=of("failed"),
        claimed=of("claimed"),
    )


def _where(server: Server) -> tuple[str, str]:
    return server.metadata[ZONE], server.metadata.get(FLAVOR, "")


def _state(server: Server) -> str:
    if server.locked:
        return "locked"
    if SPARE not in server.tags:
        return "claimed"
    if server.status == "BUILD" or server.task_state is not None:
        return "coming"
    if server.status == "SHUTOFF":
        return "asleep" if server.host_up is False else "ready"
    return "running" if server.status == "ACTIVE" else "failed"


def pools(servers: Sequence[Server], settings: HousekeepingSettings) -> list[Pool]:
    """Return the configured pools, then other pools that still have placeholders of this stackmend."""
    ours = [server for server in servers if is_ours(server, settings.spare_owner)]
    configured = list(product(settings.spare_amphora_zones or (ANY,), settings.spare_amphora_flavors or ("",)))
    found = {_where(server) for server in ours}
    return [
        *(pool(*where, settings.spare_amphora_pool_size, ours) for where in configured),
        *(pool(*where, 0, ours) for where in sorted(found.difference(configured))),
    ]


def deploying(servers: Iterable[Server], rows: Iterable[records.Amphora], longest_flow: float) -> int:
    """Count the amphorae and placeholders that Octavia or any stackmend is building.

    An amphora with a row and a server counts once. A row unchanged for ``longest_flow`` does not count, because its worker has
    died. A row in BOOTING does not count if it is perhaps another provider's device.

    :param longest_flow: seconds for which a build can write no row
    """
    begun = [row for row in rows if row.status in _BUILDING and row.age < longest_flow]
    of_octavia = {row.id for row in begun if row.status != "BOOTING" or not row.is_device}
    building = [server for server in servers if server.status == "BUILD"]
    named = {server.name.removeprefix(AMPHORA_PREFIX) for server in building if server.name.startswith(AMPHORA_PREFIX)}
    return len(of_octavia | named) + sum(map(is_placeholder, building))


def failing_over(
    balancers: Iterable[records.LoadBalancer], rows: Iterable[records.Amphora], longest_flow: float
) -> frozenset[str]:
    """Return the ids of load balancers of which Octavia is replacing an amphora, or that recently went into ERROR.

    While there is such a load balancer, stackmend builds no spare, which could take the replacement's room.

    :param longest_flow: seconds for which a failover can write no row
    """
    rows = tuple(rows)
    replaced = {row.load_balancer_id for row in rows if row.status in _REPLACED}
    of_status = {"PENDING_UPDATE": replaced, "ERROR": {row.load_balancer_id for row in rows}}
    return frozenset(
        balancer.id
        for balancer in balancers
        if balancer.age < longest_flow and balancer.id in of_status.get(balancer.status, ())
    )


def next_to_fill(found: Sequence[Pool]) -> Pool | None:
    """Return the first pool that lacks spares and has no failed spare; None without such a pool.

    Replicas fill only this pool, and only one replica claims its key. So they do not exceed the limit of simultaneous builds.
    """
    return next((one for one in found if one.missing and not one.failed), None)


def giving_way(driver: Driver, found: Sequence[Pool]) -> list[Pool]:
    """Return the pools. If the quotas leave Octavia too little room, the last configured pool with spares gets an ``excess``.

    A used-up quota fails every build of Octavia, even builds of its health manager
    (``octavia/compute/drivers/nova_driver.py``).
    """
    last = next((one for one in reversed(found) if one.wanted and (one.ready or one.running)), None)
    room = driver.headroom(last.flavor) if last is not None else None
    if room is None or room >= RESERVE:
        return list(found)
    return [replace(one, excess=RESERVE - room) if one is last else one for one in found]


def quota_for(driver: Driver, pool: Pool) -> int | None:
    """Return how many spares of a pool the quotas allow, with :data:`RESERVE` servers left; None without a limit."""
    room = driver.headroom(pool.flavor)
    return None if room is None else max(0, room - RESERVE)


def begin(driver: Driver, number: int) -> list[str]:
    """Begin to build at most ``number`` missing placeholders of one pool, within all limits; return their ids."""
    servers = driver.servers()
    settings, rows = driver.settings, driver.database.run(queries.amphorae)
    room = settings.maximum_deploying_amphora_count - deploying(servers, rows, settings.longest_flow)
    short = next_to_fill(pools(servers, settings))
    if short is None:
        return []
    allowed = quota_for(driver, short)
    most = min(number, room, short.missing, *(() if allowed is None else (allowed,)))
    return [_create(driver, short) for _ in range(most)]


def _create(driver: Driver, pool: Pool) -> str:
    name = f"{SPARE_PREFIX}{pool.name}-{uuid.uuid4().hex[:8]}"
    marks = {ZONE: pool.zone, OWNER: driver.settings.spare_owner} | ({FLAVOR: pool.flavor} if pool.flavor else {})
    return driver.create_server(name, None if pool.zone == ANY else pool.zone, SPARE, marks, pool.flavor)


def spares_for(driver: Driver, amphora: records.Amphora, attempts: int = 0) -> list[Server]:
    """Return the ready spares that can make room for the replacement of an amphora, best first.

    Call it before the failover request: Octavia asks Nova for a server within a second. Errors are only logged.

    :param attempts: recorded failovers that did not replace the amphora; if any, return no spare: the room of the first
        failover's spare is still free
    """
    if attempts >= _ATTEMPTS:
        return []
    try:
        taken = _taken(driver, amphora)
        return eligible(driver.servers(), driver.settings.spare_owner, amphora.zone, taken, amphora.compute_flavor)
    except (AmphoraDriverError, HandlerError) as error:
        LOG.warning("no spare makes room for the replacement of amphora %s: %s", amphora.id, error)
        return []


def make_room(driver: Driver, spares: Iterable[Server]) -> str | None:
    """Claim the first spare that no other caller has claimed, and ask Nova to delete it. Log errors.

    Call it after Octavia has accepted the failover, so that a refused request costs no spare.

    :return: the spare's id; None when stackmend deletes none
    """
    for spare in spares:
        try:
            now = driver.server(spare.id)
            if now is None or now.locked or not driver.untag_server(spare.id, SPARE):
                continue
            driver.delete_server(spare.id)
        except NotFoundError:
            continue
        except (AmphoraDriverError, HandlerError) as error:
            LOG.warning("spare %s makes no room for a failover: %s", spare.id, error)
            return None
        return spare.id
    return None


def room_text(spare: str | None) -> str:
    return f"; spare {spare} made room for a failover" if spare else ""


def _taken(driver: Driver, amphora: records.Amphora) -> frozenset[str]:
    """Return the hosts that a replacement must not use: of surviving amphorae and, in a server group, of the failed amphora."""
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


def eligible(
    servers: Iterable[Server], owner: str, zone: str | None, taken: Collection[str], flavor: str | None
) -> list[Server]:
    """Return the ready spares, best first.

    Spares in the zone come first. Within a zone, ``flavor`` comes first, then ``amp_flavor_id``, then any other flavor.
    A spare in another zone counts only when its pool has the zone ``any``.

    :param zone: the new amphora's zone; None when unknown
    :param taken: hosts that the new amphora must not use
    """
    ready = [
        server
        for server in servers
        if is_ours(server, owner)
        and _state(server) == "ready"
        and server.host not in taken
        and (zone is None or server.zone == zone or server.metadata[ZONE] in {zone, ANY})
    ]
    order = [flavor, ""]

    def rank(server: Server) -> tuple[bool, int, float, str]:
        of = server.metadata.get(FLAVOR, "")
        return server.zone != zone, order.index(of) if of in order else len(order), -server.age, server.id

    return sorted(ready, key=rank)
