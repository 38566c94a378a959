"""Sets a load balancer from PENDING_* to ERROR, as Octavia's flows do when they revert.

After PENDING_UPDATE, a failover follows. The metadata of the amphorae's servers hold the time of the write (:func:`was_freed`).

After PENDING_CREATE or PENDING_DELETE, only the owner's deletion follows, which Octavia accepts in ERROR. A tag of the load
balancer's security group holds the time of the write. :mod:`handlers.octavia.rebuild` refuses every failover of a load balancer
with this tag, or without a security group. But Octavia's health manager fails over load balancers in ERROR. So stackmend frees
no such load balancer while one of its amphorae is silent.

Sources: ``octavia/controller/worker/v2/tasks/lifecycle_tasks.py`` (LoadBalancerToErrorOnRevertTask); ``DELETABLE_STATUSES`` and
``FAILOVERABLE_STATUSES`` in ``octavia/common/constants.py``; ``get_stale_amphora`` in ``octavia/db/repositories.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.base import Conflict, Healed, InFlight, Refused
from handlers.octavia import changes, queries, rebuild, records, tables
from handlers.octavia.balancers import Balancer
from handlers.octavia.cloud_objects import DESCRIBABLE, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import NotFoundError, UnavailableException
from handlers.octavia.reversal import to_pending
from handlers.octavia.stuck.problems import evidence

#: metadata of a server: the time at which stackmend set the load balancer of its amphora to ERROR
FREED = "stackmend_freed"


def servers(driver: Driver, balancer: Balancer) -> list[Server]:
    """Return the servers of a load balancer's amphorae.

    :raises Unavailable: Nova does not answer
    """
    found = [driver.server(amphora.compute_id) for amphora in balancer.live if amphora.compute_id]
    return [server for server in found if server is not None]


def was_freed(driver: Driver, balancer: Balancer) -> bool:
    """Return whether :func:`for_failover` set the load balancer to ERROR, and its row has not changed since."""
    at = balancer.row.updated_at
    return at is not None and any(server.metadata.get(FREED) == at.isoformat() for server in servers(driver, balancer))


def endangered(driver: Driver, balancer: Balancer) -> str:
    """Return the id of a silent amphora; empty without one.

    In ERROR, Octavia's health manager would fail over the load balancer because of this amphora.
    """
    beats = driver.database.run(queries.healths)
    heard = driver.settings.heard_within
    for amphora in balancer.live:
        beat = beats.get(amphora.id)
        if beat is None or beat.busy or amphora.status not in records.SERVING:
            continue
        if not -records.SKEW <= beat.silent <= heard:
            return amphora.id
    return ""


def marking_busy(driver: Driver, amphora: str) -> str:
    """Return the SQL statement that makes Octavia's health manager ignore an amphora, as Octavia's deletion does."""
    health = tables.amphora_health
    return driver.database.typed(sa.update(health).where(health.c.amphora_id == amphora).values(busy=True))


def by_hand(driver: Driver, balancer: Balancer) -> str:
    """Return the SQL statement that an operator runs instead of :func:`for_owner`."""
    return driver.database.typed(changes.erring(balancer.row, utcnow()))


def for_failover(driver: Driver, balancer: Balancer, prove_idle: Callable[[], None]) -> Healed:
    """Set a load balancer to ERROR for a failover.

    :param prove_idle: raises an exception unless no flow works on the load balancer; called right before the write
    """
    at = driver.database.run(_a_second_ago)
    marked = servers(driver, balancer)
    for server in marked:
        _mark(driver, server, at.isoformat())
    try:
        return _free(driver, balancer, prove_idle, at, "so that Octavia accepts a failover", complete=False)
    except (Conflict, InFlight, Refused):
        # Octavia, by another clock, can write ERROR in the second of the mark; only the mark shows who wrote it
        for server in marked:
            _mark(driver, server, "")
        raise


def for_owner(driver: Driver, balancer: Balancer, prove_idle: Callable[[], None]) -> Healed:
    """Set a load balancer to ERROR for its owner; ``prove_idle`` is as in :func:`for_failover`."""
    at = driver.database.run(_a_second_ago)
    rebuild.record_freed(driver, balancer.row.id, at)
    try:
        return _free(driver, balancer, prove_idle, at, "so that its owner can delete it", complete=True)
    except (Conflict, InFlight, Refused):
        rebuild.forget_freed(driver, balancer.row.id, at)
        raise


def undo_for_failover(driver: Driver, balancer: Balancer) -> str:
    """Return the undo of :func:`for_failover` before its write.

    The undo needs the time of the write. Only the servers' metadata will hold this time.
    """
    holders = [server.id for server in servers(driver, balancer) if server.status in DESCRIBABLE]
    if not holders:
        return "none until the heal has ended: no server of its amphorae can hold the time of the write"
    return f"{_unknown_time(driver, balancer)} = {FREED} in the properties of: openstack server show {holders[0]}"


def undo_for_owner(driver: Driver, balancer: Balancer) -> str:
    """Return the undo of :func:`for_owner` before its write.

    As in :func:`undo_for_failover`, but the tag of the security group will hold the time.
    """
    group = rebuild.security_group(driver, balancer.row.id)
    if group is None:
        return "none until the heal has ended: it has no security group that can hold the time of the write"
    where = f"the last tag of: openstack security group show {group.id}"
    return f"{_unknown_time(driver, balancer)} behind {rebuild.FREED} in {where}"


def _unknown_time(driver: Driver, balancer: Balancer) -> str:
    return f"{to_pending(balancer.row, None, driver.database.typed)}, with TIME"


def _free(
    driver: Driver, balancer: Balancer, prove_idle: Callable[[], None], at: datetime, aim: str, complete: bool
) -> Healed:
    row = balancer.row
    prove_idle()
    driver.database.run(partial(changes.mark_error, balancer=row, at=at))
    return Healed(
        f"set load balancer {row.id} from {row.status} to ERROR, {aim}",
        before=evidence(balancer),
        after={"status": "ERROR", "updated_at": at.isoformat()},
        undo=to_pending(row, at, driver.database.typed),
        complete=complete,
    )


def _mark(driver: Driver, server: Server, at: str) -> None:
    """Record in a server's metadata the time at which stackmend sets the load balancer to ERROR; empty to remove the record.

    Do nothing if the server is gone, or if Nova refuses the change in the server's state. In both cases the amphora has failed,
    and ``failed_amphora`` requests the failover.
    """
    try:
        driver.describe_server(server.id, {FREED: at})
    except NotFoundError:
        return
    except UnavailableException as error:
        if error.dependency != f"server:{server.id}":
            raise


def _a_second_ago(connection: Connection) -> datetime:
    """Return the database's time one second ago, in whole seconds as in MySQL, so that any later write has another time."""
    now: datetime = connection.execute(sa.select(queries.NOW)).scalar_one()
    return now.replace(microsecond=0) - timedelta(seconds=1)
