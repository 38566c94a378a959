from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from oslo_config import cfg

from handlers.octavia.balancers import Balancer

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "stuck_load_balancers_after",
        help="Seconds without a change to a load balancer in PENDING_* and its amphorae after which no flow of Octavia works "
        "on it. Unset: twice the time for which a flow can work without a change, by the retries and timeouts in "
        "octavia.conf; a time below that is refused.",
    ),
    cfg.BoolOpt(
        "stuck_load_balancers_return_to_owner",
        default=False,
        help="Whether a load balancer that is stuck in PENDING_CREATE or PENDING_DELETE is set to ERROR. Then its owner can "
        "delete it. stackmend never fails it over.",
    ),
    cfg.BoolOpt(
        "stuck_load_balancers_failover_errors",
        default=False,
        help="Whether a load balancer in ERROR that has all its amphorae is failed over too, after "
        "stuck_load_balancers_after without a change. It may still pass traffic, and the reason of the error is unknown.",
    ),
    cfg.BoolOpt(
        "stuck_load_balancers_failover_children",
        default=False,
        help="Whether an ACTIVE load balancer is failed over, once, when one of its objects stays in PENDING_CREATE or "
        "PENDING_UPDATE for stuck_load_balancers_after. Its objects are listeners, pools, members, health monitors, L7 "
        "policies and L7 rules. The failover interrupts a load balancer that has one amphora.",
    ),
]


class Problem(StrEnum):
    PENDING_CREATE = "stuck-pending-create"
    PENDING_UPDATE = "stuck-pending-update"
    PENDING_DELETE = "stuck-pending-delete"
    FAILOVER_DUE = "failover-due"
    COUNT = "amphora-count"
    DELETED_AMPHORA = "deleted-amphora"
    ERROR = "load-balancer-error"
    CHILDREN = "stuck-children"


#: states that a flow sets, with the problem of a load balancer that stays in the state
STUCK = {
    "PENDING_CREATE": Problem.PENDING_CREATE,
    "PENDING_UPDATE": Problem.PENDING_UPDATE,
    "PENDING_DELETE": Problem.PENDING_DELETE,
}

#: problems after which the owner deletes the load balancer, and no failover follows
OWNERS = frozenset({Problem.PENDING_CREATE, Problem.PENDING_DELETE})


@dataclass(frozen=True, slots=True)
class Permissions:
    """The operator's permissions for heals that are off by default.

    Each field is the option ``stuck_load_balancers_<field>``.
    """

    failover_errors: bool = False
    failover_children: bool = False
    return_to_owner: bool = False


NONE = Permissions()


def evidence(balancer: Balancer) -> dict[str, Any]:
    return {
        "status": balancer.row.status,
        "updated_at": str(balancer.row.updated_at),
        "topology": balancer.row.topology,
        "amphorae": {amphora.id: amphora.status for amphora in balancer.live},
    }
