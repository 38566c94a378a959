"""What of Octavia's is left over: the decision, as pure functions over what was read.

Each function is given one object and all that is known of it, and says why it is a leftover, or None. They are written so
that everything that anybody may still need is a reason for None:

- anything outside Octavia's project, or not named as Octavia names it (``amphora-<uuid>``, ``octavia-lb-vrrp-<uuid>``,
  ``octavia-lb-member-<uuid>``, ``octavia-lb-<uuid>``, ``lb-<uuid>``), or kept by us (preserved, spare, or released);
- anything whose row in Octavia's database is not DELETED: it is being built, serves, or is for a failover to replace;
- anything younger than the grace, or whose row was written within it, so that every flow of Octavia has ended;
- what something else still uses: the user is the leftover, and this follows it.

A VIP's port belongs to the load balancer's owner, not to Octavia: outside Octavia's project it is reported, never deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers import withheld
from handlers.octavia import names, records
from handlers.octavia.cloud_objects import (
    Group,
    Port,
    Server,
)
from handlers.withheld import Withheld, is_withheld

#: who Neutron says has a port that Octavia made (``octavia/common/constants.py``)
_OCTAVIA = "Octavia"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something is left over.

    :param problem: a slug, for the finding
    :param summary: a sentence
    :param refusal: why it is only reported; empty when it may be removed
    """

    problem: str
    summary: str
    refusal: str = ""


def row(
    amphora: records.Amphora,
    balancer: records.LoadBalancer | None,
    found: Server | None,
    project: str,
    grace: float,
) -> Leftover | None:
    """Judge an amphora's row that is not DELETED.

    :param balancer: the load balancer that it is on
    :param found: its server
    :param project: Octavia's
    :param grace: seconds for which it must not have been written
    """
    if amphora.status == "DELETED" or amphora.age < grace:
        return None
    if amphora.load_balancer_id is not None:
        stuck = amphora.status in names.IN_A_FLOW and balancer is not None and balancer.idle
        where = f"amphora {amphora.id} of load balancer {amphora.load_balancer_id}"
        if not stuck:
            return None
        in_error = balancer is not None and balancer.status == "ERROR"
        why = withheld.refusal(Withheld.REBUILD_ERROR) if in_error and is_withheld(Withheld.REBUILD_ERROR) else ""
        return Leftover("amphora-stuck", f"{where} is {amphora.status}, and no flow works on it", why)
    if found is None:
        return Leftover(
            "amphora-without-server", f"amphora {amphora.id} is {amphora.status}, has no server and no load balancer"
        )
    refusal = names.not_removable(found, amphora.id, project)
    if amphora.status == "PENDING_DELETE":
        return Leftover("amphora-stuck", f"amphora {amphora.id} is PENDING_DELETE, and nobody deletes it", refusal)
    summary = f"amphora {amphora.id} is {amphora.status} and serves no load balancer, but has a server"
    return Leftover("amphora-deactivated", summary, refusal)


def health(amphora: str, row: records.Amphora | None, beat: records.Health | None, grace: float) -> Leftover | None:
    """Judge the heartbeat record of an amphora."""
    if beat is None or beat.silent < grace or (row is not None and row.status != "DELETED"):
        return None
    state = "is deleted" if row else "has no row"
    return Leftover(
        "orphan-health",
        f"amphora {amphora} {state}, but its heartbeat record is there and counts as one that has failed",
    )


def server(
    found: Server, project: str, rows: tuple[records.Amphora, ...], working: bool, grace: float
) -> Leftover | None:
    """Judge a server.

    :param project: Octavia's
    :param rows: the amphora rows that are this server's, by their ``compute_id`` or by its name
    :param working: whether Octavia works on the load balancer of one of them
    """
    amphora = names.amphora_of_server(found.name)
    if amphora is None or found.project_id != project or names.is_kept(found) or found.age < grace:
        return None
    if working or found.task_state is not None or found.status == "BUILD":
        return None
    if any(row.status != "DELETED" or row.age < grace for row in rows):
        return None
    if rows:
        return Leftover("zombie-server", f"server {found.id} is there, but its amphora {amphora} is DELETED")
    return Leftover(
        "server-without-row",
        f"server {found.id} is named after amphora {amphora}, which Octavia does not know",
        withheld.refusal(Withheld.SERVER_WITHOUT_ROW) if is_withheld(Withheld.SERVER_WITHOUT_ROW) else "",
    )


def amphora_port(
    port: Port, project: str, row: records.Amphora | None, working: bool, device_exists: bool, used: bool, grace: float
) -> Leftover | None:
    """Judge a VRRP or member port.

    :param row: of the amphora in its name
    :param working: whether Octavia works on the load balancer of that
    :param device_exists: whether Nova knows the server that it is attached to
    :param used: whether a row refers to it
    """
    amphora = names.amphora_of_port(port.name)
    if amphora is None or port.project_id != project or used or working or device_exists or port.age < grace:
        return None
    if row is not None and (row.status != "DELETED" or row.age < grace):
        return None
    state = "is DELETED" if row else "Octavia does not know"
    return Leftover("leaked-port", f"port {port.id} ({port.name}) belongs to an amphora that {state}")


def balancer_port(
    port: Port, project: str, balancer: records.LoadBalancer | None, used: bool, grace: float
) -> Leftover | None:
    """Judge a VIP's port.

    :param balancer: the row of the load balancer in its name
    """
    identity = names.balancer_of_port(port.name)
    made_by_octavia = port.device_owner == _OCTAVIA and port.device_id == f"lb-{identity}"
    if identity is None or not made_by_octavia or used or port.age < grace or not _is_gone(balancer, grace):
        return None
    refusal = (
        ""
        if port.project_id == project
        else f"it belongs to project {port.project_id}, not to Octavia's; if it holds nobody's address any more, its owner "
        f"or an administrator deletes it: openstack port delete {port.id}"
    )
    return Leftover(
        "leaked-vip-port", f"port {port.id} holds the VIP of load balancer {identity}, which is gone", refusal
    )


def security_group(
    group: Group, project: str, balancer: records.LoadBalancer | None, used: bool, grace: float
) -> Leftover | None:
    """Judge a security group.

    :param used: whether a port of Octavia's has it
    """
    identity = names.balancer_of_security_group(group.name)
    if identity is None or group.project_id != project or used or not _is_gone(balancer, grace):
        return None
    return Leftover(
        "leaked-security-group", f"security group {group.id} belongs to load balancer {identity}, which is gone"
    )


def server_group(
    group: Group, project: str, balancer: records.LoadBalancer | None, used: bool, grace: float
) -> Leftover | None:
    """Judge a server group.

    :param used: whether a row refers to it
    """
    identity = names.balancer_of_server_group(group.name)
    if identity is None or group.project_id != project or used or group.members or not _is_gone(balancer, grace):
        return None
    return Leftover(
        "leaked-server-group", f"server group {group.id} belongs to load balancer {identity}, which is gone"
    )


def _is_gone(balancer: records.LoadBalancer | None, grace: float) -> bool:
    return balancer is None or (balancer.status == "DELETED" and balancer.age >= grace)
