"""Decides whether and how often stackmend may fail over a load balancer in ERROR or ACTIVE.

A failover creates a missing VIP port again. So after a failed deletion or creation, the load balancer's owner must decide, not
stackmend. Missing objects show such a failure. Octavia's deletion first removes the server group, then the security group and
the VIP port, then the amphorae (``octavia/controller/worker/v2/flows/load_balancer_flows.py``,
``octavia/network/drivers/neutron/allowed_address_pairs.py``). A failed creation leaves no amphora row.

Before it requests a failover, stackmend records the attempt as a tag of the load balancer's security group. The tag names an
amphora to replace, or an object in PENDING_*, and the version of the load balancer's row. Octavia writes the row when it
accepts a request. So a changed row shows an accepted request, even if the answer was lost. The attempt then counts for a week,
or longer while the amphora exists. Tags with the same version count once: Octavia accepts one request, and refuses the others.

The owner can change the row before the request arrives, and Octavia then refuses the request. If the load balancer is ACTIVE,
the owner can change anything, so stackmend removes its tag. A load balancer in ERROR can only be failed over or deleted. There
the tag stays, because the change was a failover by the owner or by another handler (``octavia/db/repositories.py``:
test_and_set_provisioning_status, set_status_for_failover).

A load balancer that stackmend freed from PENDING_CREATE or PENDING_DELETE has the tag :data:`FREED`, and gets no failover.

A failover interrupts the traffic of an ACTIVE load balancer. If it does not help, the next failover waits. After three
failovers within a week, stackmend only reports.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from handlers.base import Conflict, HandlerError, InFlight, Refused, Unavailable
from handlers.octavia import queries, records
from handlers.octavia.cloud_objects import Group
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError, UnavailableException

LOG = logging.getLogger(__name__)

#: seconds in ERROR before the next failover, by the number of attempts: the flow that failed still undoes its work
PAUSES = (15.0, 300.0, 1800.0)

#: the time for which an attempt counts after its amphora was replaced, and its tag stays
_MEMORY = timedelta(days=7) // timedelta(microseconds=1)

_TAG = "stackmend-"

#: begins the tag of a load balancer that stackmend set to ERROR for its owner; the time of that write follows
FREED = "stackmend_freed_"
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failover that stackmend recorded before the request.

    :param amphora: the id of one amphora that the failover should replace; for :mod:`handlers.octavia.children`, the id of an
        object in PENDING_*; without amphorae, the id of the load balancer
    :param version: the :func:`version` of the load balancer's row before the request
    """

    amphora: str
    version: int

    @property
    def tag(self) -> str:
        """The tag that records the attempt on the load balancer's security group.

        Neutron allows 60 characters (``neutron/extensions/tagging.py``).
        """
        return f"{_TAG}{self.amphora}-{self.version:x}"


def version(balancer: records.LoadBalancer) -> int:
    """Return the version of a load balancer's row: the time of its last change in microseconds."""
    return 0 if balancer.updated_at is None else (balancer.updated_at - _EPOCH) // timedelta(microseconds=1)


def recorded(group: Group | None) -> Iterator[Attempt]:
    for tag in sorted(group.tags) if group is not None else ():
        amphora, _, number = tag.removeprefix(_TAG).rpartition("-")
        if tag.startswith(_TAG) and amphora and set(number) <= set("0123456789abcdef"):
            yield Attempt(amphora, int(number or "0", 16))


def attempts(group: Group | None, amphorae: Collection[str], balancer: records.LoadBalancer) -> int:
    """Count the recorded failovers for ``amphorae`` that Octavia accepted. All failed, because the amphorae still exist."""
    return len({one.version for one in recorded(group) if one.amphora in amphorae} - {version(balancer)})


@dataclass(frozen=True, slots=True)
class Remains:
    """The objects that a load balancer still has.

    :param amphorae: ids of the rows that are not DELETED
    :param security_group: None when Neutron has no such group
    :param server_group: False when Nova lacks the group that ``balancer`` names
    :param shared: a server or VRRP port of its amphorae that another row names too; empty without one
    """

    balancer: records.LoadBalancer
    amphorae: tuple[str, ...]
    vip_port: bool
    security_group: Group | None
    server_group: bool
    shared: str = ""

    @property
    def freed(self) -> bool:
        return is_freed(self.security_group)

    @property
    def attempts(self) -> int:
        return attempts(self.security_group, self.amphorae, self.balancer)

    @property
    def lately(self) -> int:
        """The number of failovers that Octavia accepted in the week before the last change of the load balancer's row."""
        now = version(self.balancer)
        return len({one.version for one in recorded(self.security_group) if now - _MEMORY <= one.version != now})


@dataclass(frozen=True, slots=True)
class _Rule:
    applies: Callable[[Remains], bool]
    reason: str


_REPEATED = _Rule(
    lambda r: max(r.attempts, r.lately) >= len(PAUSES),
    f"{len(PAUSES)} failovers within a week did not help: examine the logs of octavia-worker, then run openstack "
    "loadbalancer failover",
)

#: why no amphora is failed over whose server or VRRP port another row names too
SHARED = (
    "rows of several amphorae name one of its servers or VRRP ports, which a failover would delete: set the right compute_id "
    "and vrrp_port_id in each"
)

_SHARED = _Rule(lambda r: bool(r.shared), SHARED)

#: An ACTIVE load balancer to which a rule applies is only reported, because a failover interrupts it.
ACTIVE_RULES = (
    _SHARED,
    _Rule(lambda r: r.security_group is None, "it has no security group lb-<id>, so no failover can be counted"),
    _REPEATED,
)

_OWNER = "only its owner can decide to delete it or to create it again"

#: why stackmend leaves a load balancer in ERROR that it freed for its owner
OWNERS = (
    f"stackmend set it to ERROR because its creation or deletion had no flow: {_OWNER}; without the tag {FREED}TIME of its "
    "security group, stackmend may fail it over again"
)

#: A load balancer in ERROR to which a rule applies is only reported; the first one gives the reason.
RULES = (
    _Rule(lambda r: r.freed, OWNERS),
    _Rule(lambda r: not r.vip_port, f"its VIP port is gone, so its deletion or creation failed: {_OWNER}"),
    _Rule(lambda r: not r.amphorae, f"it has no amphora row, so its creation or deletion failed: {_OWNER}"),
    _Rule(lambda r: not r.server_group, f"its server group is gone, so its deletion failed: {_OWNER}"),
    _Rule(
        lambda r: r.security_group is None,
        f"its security group lb-<id> is gone, so its deletion may have failed, and no failover can be counted: {_OWNER}",
    ),
    _SHARED,
    _REPEATED,
)


def obstacle(remains: Remains) -> str:
    """Return why stackmend must not fail over a load balancer; empty without a reason."""
    return _first(RULES, remains)


def repetition(remains: Remains) -> str:
    """Return why stackmend must not fail over an ACTIVE load balancer; empty without a reason."""
    return _first(ACTIVE_RULES, remains)


def _first(rules: Sequence[_Rule], remains: Remains) -> str:
    return next((rule.reason for rule in rules if rule.applies(remains)), "")


def pause(remains: Remains) -> float:
    """Return how many seconds a load balancer must be in ERROR, or unchanged in ACTIVE, before its next failover.

    Each failover gives an ACTIVE load balancer new amphorae. So in ACTIVE, all failovers of a week count.
    """
    failed = remains.attempts if remains.balancer.status == "ERROR" else remains.lately
    return PAUSES[min(failed, len(PAUSES) - 1)]


def read(driver: Driver, balancer: records.LoadBalancer, amphorae: Sequence[records.Amphora]) -> Remains:
    """:param amphorae: all amphora rows of the load balancer
    :raises Unavailable: the database, Neutron or Nova does not answer
    """
    vip = driver.database.run(partial(queries.vip_port, load_balancer=balancer.id))
    group = balancer.server_group_id
    return Remains(
        balancer=balancer,
        amphorae=tuple(sorted(row.id for row in amphorae if row.status != "DELETED")),
        vip_port=vip is not None and driver.port(vip) is not None,
        security_group=security_group(driver, balancer.id),
        server_group=group is None or any(found.id == group for found in driver.server_groups()),
        shared=driver.database.run(partial(queries.shared_object, rows=amphorae)),
    )


def require(
    driver: Driver, balancer: records.LoadBalancer, amphorae: Sequence[records.Amphora], settled_for: float
) -> Remains:
    """Return the result of :func:`read`, if stackmend may fail over the load balancer now.

    :param settled_for: seconds since a flow last worked on the load balancer
    :raises Refused: :func:`obstacle` or :func:`repetition` gives a reason
    :raises InFlight: the next failover must wait (:func:`pause`)
    :raises Unavailable: as in :func:`read`
    """
    remains = read(driver, balancer, amphorae)
    if reason := obstacle(remains) if balancer.status == "ERROR" else repetition(remains):
        raise Refused(reason)
    if settled_for < pause(remains):
        text = f"load balancer {balancer.id} is {balancer.status} for {settled_for:.0f} s"
        raise InFlight(text, pause(remains) - settled_for)
    return remains


def security_group(driver: Driver, balancer: str) -> Group | None:
    """:raises Unavailable: Neutron does not answer"""
    return driver.security_group(f"lb-{balancer}")


def is_freed(group: Group | None) -> bool:
    """Return whether a load balancer's security group has the tag of :func:`record_freed`."""
    return group is not None and any(tag.startswith(FREED) for tag in group.tags)


def record_freed(driver: Driver, balancer: str, at: datetime) -> None:
    """Record in a tag that stackmend is about to set a load balancer to ERROR for its owner. Remove earlier records.

    A load balancer without a security group needs no record, because :data:`RULES` allow it no failover.

    :param at: the load balancer's new ``updated_at``
    :raises Conflict: the security group is gone
    """
    group = security_group(driver, balancer)
    if group is None:
        return
    tag = f"{FREED}{at.isoformat()}"
    try:
        driver.tag_security_group(group.id, tag)
        for old in sorted(group.tags - {tag}):
            if old.startswith(FREED):
                driver.untag_security_group(group.id, old)
    except NotFoundError as error:
        raise Conflict(f"the security group of load balancer {balancer} is gone: its deletion has begun") from error


def forget_freed(driver: Driver, balancer: str, at: datetime) -> None:
    """Remove a record of :func:`record_freed`, because stackmend did not set the load balancer to ERROR."""
    if (group := security_group(driver, balancer)) is not None:
        driver.untag_security_group(group.id, f"{FREED}{at.isoformat()}")


@contextmanager
def recorded_attempt(
    driver: Driver, group: Group | None, balancer: records.LoadBalancer, amphora: str
) -> Iterator[None]:
    """Record a failover as a tag of the security group. The ``with`` block then requests the failover.

    :param group: None: record nothing
    :param amphora: as in :class:`Attempt`
    :raises Conflict: the security group is gone
    """
    if group is None:
        yield
        return
    attempt = Attempt(amphora, version(balancer))
    _record(driver, group, balancer, attempt)
    try:
        yield
    except (AmphoraDriverError, HandlerError) as error:
        # a tag that was there before can be that of a request which Octavia has accepted
        if balancer.status == "ACTIVE" and _is_refusal(error) and attempt.tag not in group.tags:
            _remove(driver, group, attempt)
        raise


def _is_refusal(error: AmphoraDriverError | HandlerError) -> bool:
    """Return whether an error proves that Octavia accepted no request. A lost answer is no such proof."""
    if isinstance(error, UnavailableException):
        return ":" in error.dependency  # the object whose state refused the call
    return isinstance(error, AmphoraDriverError) or not isinstance(error, Unavailable)


def _remove(driver: Driver, group: Group, attempt: Attempt) -> None:
    try:
        driver.untag_security_group(group.id, attempt.tag)
    except (AmphoraDriverError, HandlerError) as error:
        LOG.warning("a failover that Octavia refused may count as an attempt for a week: %s", error)


def _record(driver: Driver, group: Group, balancer: records.LoadBalancer, attempt: Attempt) -> None:
    """Record an attempt as a tag of a security group, and remove the tags of attempts older than a week.

    Neutron allows 50 tags (``neutron/extensions/tagging.py``).

    :raises Conflict: the security group is gone
    """
    try:
        for old in recorded(group):
            if old.version < attempt.version - _MEMORY:
                driver.untag_security_group(group.id, old.tag)
        driver.tag_security_group(group.id, attempt.tag)
    except NotFoundError as error:
        raise Conflict(f"the security group of load balancer {balancer.id} is gone: its deletion has begun") from error
