"""Whether a load balancer in ERROR may be failed over as a whole, and how often.

Such a failover creates the VIP port again. So it must not follow a failed deletion or creation: there only the owner
decides. Octavia's deletion first removes the server group, then the security group and the VIP port, then the amphorae
(``octavia/controller/worker/v2/flows/load_balancer_flows.py``,
``octavia/network/drivers/neutron/allowed_address_pairs.py``). A creation that failed leaves no amphora row.

Each attempt is recorded as a tag of the load balancer's security group. The tag names the amphora that the attempt should
replace. So a successful failover resets the count, and a restart of stackmend does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from handlers.base import HandlerError, InFlight, Refused
from handlers.octavia import queries, records
from handlers.octavia.cloud_objects import Group
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError

LOG = logging.getLogger(__name__)

#: seconds in ERROR before the next failover, by the number of recorded attempts: the flow that failed still undoes its work
PAUSES = (15.0, 15.0, 300.0, 1800.0)

_TAG = "stackmend-"


@dataclass(frozen=True, slots=True)
class Remains:
    """The objects that a load balancer in ERROR still has.

    :param amphorae: ids of the rows that are not DELETED
    :param security_group: None when Neutron has none of its name
    """

    amphorae: tuple[str, ...]
    vip_port: bool
    security_group: Group | None
    server_group: bool

    @property
    def attempts(self) -> int:
        """The number of requested failovers that left these amphorae in place."""
        return attempts(self.security_group, self.amphorae)


@dataclass(frozen=True, slots=True)
class _Rule:
    applies: Callable[[Remains], bool]
    reason: str


_OWNER = "only its owner can decide to delete it or to create it again"

#: A load balancer in ERROR to which a rule applies is only reported; the first one gives the reason.
RULES = (
    _Rule(lambda r: not r.vip_port, f"its VIP port is gone, so its deletion or creation failed: {_OWNER}"),
    _Rule(lambda r: not r.amphorae, f"it has no amphora row, so its creation or deletion failed: {_OWNER}"),
    _Rule(lambda r: not r.server_group, f"its server group is gone, so its deletion failed: {_OWNER}"),
    _Rule(
        lambda r: r.security_group is None,
        f"its security group lb-<id> is gone, so its deletion may have failed, and no failover can be counted: {_OWNER}",
    ),
    _Rule(
        lambda r: r.attempts >= len(PAUSES),
        f"{len(PAUSES)} failovers did not help: examine the logs of octavia-worker, then run openstack loadbalancer failover",
    ),
)


def obstacle(remains: Remains) -> str:
    """Return why a load balancer in ERROR must not be failed over; empty when it may be."""
    return next((rule.reason for rule in RULES if rule.applies(remains)), "")


def pause(remains: Remains) -> float:
    """Return the seconds that a load balancer must have been in ERROR before its next failover."""
    return PAUSES[min(remains.attempts, len(PAUSES) - 1)]


def read(driver: Driver, balancer: records.LoadBalancer, amphorae: Sequence[records.Amphora]) -> Remains:
    """Read the objects that a load balancer in ERROR still has.

    :param amphorae: all its rows
    :raises Unavailable: when the database, Neutron or Nova does not answer
    """
    vip = driver.database.run(partial(queries.vip_port, load_balancer=balancer.id))
    group = balancer.server_group_id
    return Remains(
        amphorae=tuple(sorted(row.id for row in amphorae if row.status != "DELETED")),
        vip_port=vip is not None and driver.port(vip) is not None,
        security_group=security_group(driver, balancer.id),
        server_group=group is None or any(found.id == group for found in driver.server_groups()),
    )


def require(
    driver: Driver, balancer: records.LoadBalancer, amphorae: Sequence[records.Amphora], settled_for: float
) -> Remains:
    """Return the remains of a load balancer in ERROR that may be failed over now.

    :param amphorae: all its rows
    :param settled_for: seconds for which no flow has worked on it
    :raises Refused: when only its owner may decide, or failovers did not help
    :raises InFlight: when the last attempt was too short ago
    :raises Unavailable: as :func:`read`
    """
    remains = read(driver, balancer, amphorae)
    if reason := obstacle(remains):
        raise Refused(reason)
    if settled_for < pause(remains):
        raise InFlight(f"load balancer {balancer.id} is in ERROR for {settled_for:.0f} s", pause(remains) - settled_for)
    return remains


def record_accepted(driver: Driver, remains: Remains, amphora: str) -> None:
    """Record a failover that Octavia has accepted; log when that fails, because the failover then does not count."""
    try:
        record_attempt(driver, remains.security_group, amphora)
    except (AmphoraDriverError, HandlerError) as error:
        LOG.warning("the failover of amphora %s is not counted: %s", amphora, error)


def security_group(driver: Driver, balancer: str) -> Group | None:
    """Return the security group that Octavia made for a load balancer.

    :raises Unavailable: when Neutron does not answer
    """
    return driver.security_group(f"lb-{balancer}")


def attempts(group: Group | None, amphorae: Collection[str]) -> int:
    """Return the number of recorded failovers that should have replaced one of these amphorae."""
    if group is None:
        return 0
    named = [tag.removeprefix(_TAG).rpartition("-")[0] for tag in group.tags if tag.startswith(_TAG)]
    return sum(amphora in amphorae for amphora in named)


def record_attempt(driver: Driver, group: Group | None, amphora: str) -> None:
    """Record a failover that should replace an amphora; do nothing without a security group.

    :raises Unavailable: when Neutron does not answer
    """
    if group is None:
        return
    try:
        driver.tag_security_group(group.id, f"{_TAG}{amphora}-{time.time_ns() // 1000:x}")
    except NotFoundError:
        return
