"""Decides whether an object of Octavia is a leftover, and whether stackmend may remove it.

An object is no leftover when any of these holds (for an amphora's own row, see :func:`row`):

- It is outside Octavia's project (VIP ports excepted), or has none of the names ``amphora-<uuid>``, ``octavia-lb-vrrp-<uuid>``,
  ``octavia-lb-member-<uuid>``, ``octavia-lb-<uuid>``, ``lb-<uuid>`` and, for an image, ``preserved-amphora-<uuid>``.
- It is preserved, a spare, or released.
- The row of its amphora or load balancer is not DELETED.
- It is younger than the grace (some seconds), or its row changed within the grace. Then a flow perhaps still works. Nova shows
  no age of a server group.
- Another object uses it, or a flow works on its load balancer.

stackmend only reports a locked server, and an amphora with a server or port that another row names too.

stackmend only reports a leftover in the cloud without a row, because another Octavia perhaps owns it. An operator can allow the
removal, except of a server group: another Octavia's group has no member until its first amphora boots. A VIP port outside
Octavia's project belongs to the load balancer's owner, so stackmend only reports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from handlers.octavia import names, records
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, PRESERVED_PREFIX, Group, Image, Port, Server

#: seconds after which Nova and Neutron have done what the deletion of a load balancer requested. Its flow writes DELETED into
#: the load balancer's row after all removals, then only lowers the quota and sends the notification
#: (``octavia/controller/worker/v2/flows/load_balancer_flows.py``)
SETTLED = 30.0

#: the owner that Neutron shows for a port of Octavia (``octavia/common/constants.py``)
_OCTAVIA = "Octavia"


class Problem(StrEnum):
    DEACTIVATED = "amphora-deactivated"
    ELIGIBLE = "amphora-eligible"
    WITHOUT_SERVER = "amphora-without-server"
    STUCK = "amphora-stuck"
    WITHOUT_ROW = "server-without-row"
    ZOMBIE = "zombie-server"
    PORT = "leaked-port"
    VIP_PORT = "leaked-vip-port"
    SECURITY_GROUP = "leaked-security-group"
    SERVER_GROUP = "leaked-server-group"
    IMAGE = "leaked-image"
    HEALTH = "orphan-health"
    BALANCER = "load-balancer-leftovers"


@dataclass(frozen=True, slots=True)
class Leftover:
    """:param refusal: why stackmend only reports the leftover; empty when removal is allowed"""

    problem: Problem
    summary: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """The facts that the rules share.

    :param grace: seconds for which an object and its row must be unchanged
    :param without_rows: whether stackmend may remove objects that no row names
    :param mismatch: why database and cloud perhaps do not belong together; empty when they do
    """

    project: str
    grace: float
    without_rows: bool = False
    mismatch: str = ""

    def refusal(self, known: bool) -> str:
        """Return why stackmend must not remove a leftover; empty without a reason.

        :param known: whether the leftover's amphora or load balancer has a row
        """
        if self.mismatch or known or self.without_rows:
            return self.mismatch
        return (
            "no row of Octavia names it, and another Octavia may own it: if this Octavia is alone in its project, write "
            "[housekeeping] deactivated_amphorae_without_rows = true"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """The load balancer of an amphora.

    :param serving: number of the load balancer's amphorae that serve
    :param obstacle: why stackmend must not fail over the load balancer; empty when a failover is allowed
    """

    balancer: records.LoadBalancer
    serving: int
    obstacle: str = ""

    @property
    def is_whole(self) -> bool:
        return self.balancer.is_whole(self.serving)


_DELETED_BY_HAND = "if it is no device of another provider, set its row to DELETED"


def may_be_device(amphora: records.Amphora, provider: str | None) -> bool:
    """Return whether a row perhaps belongs to another provider's device.

    Return False for PENDING_CREATE on no load balancer: the amphora provider begins with such a row.

    :param provider: the provider of the row's load balancer; None without one
    """
    if not amphora.is_device or provider in records.AMPHORA_PROVIDERS:
        return False
    return amphora.load_balancer_id is not None or amphora.status != "PENDING_CREATE"


def row(
    scope: Scope,
    amphora: records.Amphora,
    place: Place | None,
    found: Server | None,
    sharing: str | None = None,
    port: str = "",
) -> Leftover | None:
    """Return this amphora's row as a leftover; None if it is no leftover.

    :param place: None when the row names no load balancer, or one without a row
    :param found: the amphora's server; None when Nova has none
    :param sharing: another amphora that is not DELETED, and whose row names the server; None without one
    :param port: a port of the amphora that another row names; empty without one
    """
    provider = place.balancer.provider if place is not None else None
    if amphora.status == "DELETED" or amphora.age < scope.grace or may_be_device(amphora, provider):
        return None
    if amphora.load_balancer_id is not None:
        return _stuck_row(amphora, place)
    if amphora.is_device:
        text = f"amphora {amphora.id} is {amphora.status}, and has no server, address, certificate and load balancer"
        return Leftover(Problem.WITHOUT_SERVER, text, f"nothing shows which provider wrote it: {_DELETED_BY_HAND}")
    if found is None:
        text = f"amphora {amphora.id} is {amphora.status}, and has no server and no load balancer"
        return Leftover(Problem.WITHOUT_SERVER, text, names.not_removable_port(port) or scope.mismatch)
    refusal = names.not_removable(found, amphora.id, scope.project, sharing) or names.not_removable_port(port)
    refusal = refusal or scope.mismatch
    if amphora.status == "PENDING_DELETE":
        return Leftover(Problem.STUCK, f"amphora {amphora.id} is PENDING_DELETE, and no worker deletes it", refusal)
    text = f"amphora {amphora.id} is {amphora.status} and serves no load balancer, but has a server"
    return Leftover(Problem.DEACTIVATED, text, refusal)


def may_be_preserved(
    scope: Scope, amphora: records.Amphora, leftover: Leftover | None, found: Server | None, sharing: str | None = None
) -> bool:
    """Return whether stackmend preserves, or may preserve, the server of an amphora on no load balancer.

    :param leftover: the result of :func:`row`
    :param sharing: as in :func:`row`
    """
    if amphora.load_balancer_id is not None or scope.mismatch:
        return False
    if amphora.status == "DELETED":
        return amphora.compute_id is None
    if amphora.status != "ERROR" or leftover is None or found is None:
        return False
    if sharing is not None or names.foreign(found, amphora.id, scope.project):
        return False
    begun = PRESERVED in found.tags and found.metadata.get(AMPHORA) in (None, "", amphora.id)
    return begun or not names.not_removable(found, amphora.id, scope.project)


def _stuck_row(amphora: records.Amphora, place: Place | None) -> Leftover | None:
    if place is None or not place.balancer.idle or amphora.status not in names.IN_A_FLOW:
        return None
    refusal = place.obstacle
    if place.is_whole:
        refusal = (
            "its load balancer works with all its amphorae, and a failover would interrupt it: when the traffic allows it, run "
            f"openstack loadbalancer failover {place.balancer.id}"
        )
    text = f"amphora {amphora.id} of load balancer {place.balancer.id} is {amphora.status}, and no flow works on it"
    return Leftover(Problem.STUCK, text, refusal)


def health(scope: Scope, amphora: str, row: records.Amphora | None, beat: records.Health | None) -> Leftover | None:
    if beat is None or beat.silent < scope.grace or (row is not None and row.status != "DELETED"):
        return None
    state = "is DELETED" if row else "has no row"
    text = f"amphora {amphora} {state}, but its heartbeat record exists and counts as a failed amphora"
    return Leftover(Problem.HEALTH, text)


def server(
    scope: Scope, found: Server, rows: Iterable[records.Amphora], working: bool, rival: str = ""
) -> Leftover | None:
    """Return this server as a leftover; None if it is no leftover.

    :param rows: amphora rows that name the server, or whose id is in the server's name
    :param working: whether a flow works on a load balancer of ``rows``
    :param rival: the id of a port that has an address from the allowed address pairs of the server's ports; empty without one
    """
    rows, amphora = tuple(rows), names.amphora_of_server(found.name)
    stays = (
        amphora is None,
        found.project_id != scope.project,
        names.is_kept(found),
        found.age < scope.grace,
        found.task_state is not None,
        found.status == "BUILD",
        working,
        any(row.status != "DELETED" or row.age < scope.grace for row in rows),
    )
    if any(stays):
        return None
    if rows:
        text = f"server {found.id} exists, but its amphora {amphora} is DELETED"
        return Leftover(Problem.ZOMBIE, text, names.locked(found) or scope.refusal(known=True))
    text = f"server {found.id} has the name of amphora {amphora}, and Octavia has no such row"
    refusal = f"it serves an address that port {rival} has, so its load balancer is alive" if rival else ""
    return Leftover(Problem.WITHOUT_ROW, text, refusal or names.locked(found) or scope.refusal(known=False))


def amphora_port(
    scope: Scope, port: Port, row: records.Amphora | None, working: bool, device_exists: bool, used: bool
) -> Leftover | None:
    """Return this VRRP or member port as a leftover; None if it is no leftover.

    :param row: the row of the amphora in the port's name
    :param device_exists: whether the server that uses the port exists
    :param used: whether a row that is not DELETED names the port
    """
    stays = (
        names.amphora_of_port(port.name) is None,
        port.project_id != scope.project,
        port.age < scope.grace,
        used,
        working,
        device_exists,
        row is not None and (row.status != "DELETED" or row.age < scope.grace),
    )
    if any(stays):
        return None
    text = f"port {port.id} ({port.name}) belongs to an amphora that {'is DELETED' if row else 'has no row'}"
    return Leftover(Problem.PORT, text, scope.refusal(known=row is not None))


def balancer_port(scope: Scope, port: Port, balancer: records.LoadBalancer | None, used: bool) -> Leftover | None:
    """Return this VIP port as a leftover; None if it is no leftover.

    :param used: whether a row that is not DELETED names the port
    """
    identity = names.balancer_of_port(port.name)
    stays = (
        identity is None,
        port.device_owner != _OCTAVIA or port.device_id != f"lb-{identity}",
        port.age < scope.grace,
        used,
        not _is_gone(balancer, scope.grace),
    )
    if any(stays):
        return None
    refusal = scope.refusal(known=balancer is not None)
    if port.project_id != scope.project:
        refusal = (
            f"it belongs to project {port.project_id}: if the address is no longer used, its owner or an administrator "
            f"deletes it by openstack port delete {port.id}"
        )
    text = f"port {port.id} has the VIP of load balancer {identity}, which {_state(balancer)}"
    return Leftover(Problem.VIP_PORT, text, refusal)


def security_group(scope: Scope, group: Group, balancer: records.LoadBalancer | None, used: bool) -> Leftover | None:
    identity = names.balancer_of_security_group(group.name)
    stays = (
        identity is None,
        group.project_id != scope.project,
        group.age < scope.grace,
        used,
        not _is_gone(balancer, scope.grace),
    )
    if any(stays):
        return None
    text = f"security group {group.id} belongs to load balancer {identity}, which {_state(balancer)}"
    return Leftover(Problem.SECURITY_GROUP, text, scope.refusal(known=balancer is not None))


def server_group(scope: Scope, group: Group, balancer: records.LoadBalancer | None, used: bool) -> Leftover | None:
    identity = names.balancer_of_server_group(group.name)
    stays = (
        identity is None,
        group.project_id != scope.project,
        used,
        bool(group.members),
        not _is_gone(balancer, scope.grace),
    )
    if any(stays):
        return None
    text = f"server group {group.id} belongs to load balancer {identity}, which {_state(balancer)}"
    refusal = scope.mismatch or ("" if balancer is not None else _perhaps_new(group))
    return Leftover(Problem.SERVER_GROUP, text, refusal)


def _perhaps_new(group: Group) -> str:
    return (
        "no row of Octavia names it, and Nova shows no time of its creation, so another Octavia may be about to boot an "
        f"amphora in it: if there is no other Octavia, run openstack server group delete {group.id}"
    )


def image(scope: Scope, found: Image, row: records.Amphora | None, preserving: bool) -> Leftover | None:
    """Return this image, which stackmend made of an amphora, as a leftover; None if it is no leftover.

    :param row: the row of the amphora that the image's properties name
    :param preserving: whether a server has this amphora's mark, so that stackmend still completes the image
    """
    amphora = found.properties.get(AMPHORA, "")
    stays = (
        found.name != f"{PRESERVED_PREFIX}{amphora}",
        found.protected,
        bool(found.tags),
        found.age < scope.grace,
        preserving,
        row is not None and (row.status != "DELETED" or row.age < scope.grace),
    )
    if any(stays):
        return None
    text = f"image {found.id} of amphora {amphora}, which {'is DELETED' if row else 'has no row'}, was never completed"
    return Leftover(Problem.IMAGE, text, scope.refusal(known=row is not None))


def _is_gone(balancer: records.LoadBalancer | None, grace: float) -> bool:
    return balancer is None or (balancer.status == "DELETED" and balancer.age >= grace)


def _state(balancer: records.LoadBalancer | None) -> str:
    return "is DELETED" if balancer else "has no row"
