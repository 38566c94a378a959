"""The names that Octavia gives to objects, and whether stackmend keeps a server.

Source: ``octavia/common/constants.py`` and the tasks that create servers, ports and groups.
"""

from __future__ import annotations

import re

from handlers.octavia import records
from handlers.octavia.cloud_objects import (
    AMPHORA,
    AMPHORA_PREFIX,
    PRESERVED,
    PRESERVED_PREFIX,
    SPARE,
    SPARE_PREFIX,
    STATE,
    Server,
)

_UUID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_SERVER = re.compile(rf"amphora-{_UUID}")
_AMPHORA_PORT = re.compile(rf"octavia-lb-(?:vrrp|member)-{_UUID}")
_BALANCER_PORT = re.compile(rf"octavia-lb-{_UUID}")
_SECURITY_GROUP = re.compile(rf"lb-{_UUID}")

#: states of an amphora's row that only a flow sets
IN_A_FLOW = frozenset({"PENDING_CREATE", "BOOTING", "PENDING_UPDATE", "PENDING_DELETE"})


def amphora_of_server(name: str) -> str | None:
    return _match(_SERVER, name)


def amphora_of_port(name: str) -> str | None:
    return _match(_AMPHORA_PORT, name)


def ports_of_amphora(amphora: str) -> tuple[str, str]:
    return f"octavia-lb-vrrp-{amphora}", f"octavia-lb-member-{amphora}"


def port_of_balancer(balancer: str) -> str:
    return f"octavia-lb-{balancer}"


def balancer_of_port(name: str) -> str | None:
    return _match(_BALANCER_PORT, name)


def balancer_of_security_group(name: str) -> str | None:
    return _match(_SECURITY_GROUP, name)


def balancer_of_server_group(name: str) -> str | None:
    return _match(_BALANCER_PORT, name)


def _match(pattern: re.Pattern[str], name: str) -> str | None:
    found = pattern.fullmatch(name)
    return found.group(1) if found else None


def is_kept(server: Server) -> bool:
    """Return whether a server is preserved, a placeholder, or released to an operator, so that it is no leftover."""
    return _is_marked(server) or server.name.startswith(PRESERVED_PREFIX)


def _is_marked(server: Server) -> bool:
    return (
        bool({PRESERVED, SPARE} & server.tags)
        or server.name.startswith(SPARE_PREFIX)
        or bool(server.metadata.get(AMPHORA) or server.metadata.get(STATE))
    )


def may_be_stuck(row: records.Amphora) -> bool:
    return row.load_balancer_id is None or row.status in IN_A_FLOW


def in_flow(row: records.Amphora, grace: float) -> bool:
    """Return whether Octavia can still be at work on an amphora that is on no load balancer.

    :param grace: seconds for which a flow can work without a change to the row
    """
    return row.load_balancer_id is None and row.status in IN_A_FLOW and row.age < grace


def foreign(found: Server, amphora: str, project: str) -> str:
    """Return a sentence if Octavia did not create a server for this amphora; otherwise an empty text.

    A server that stackmend renamed for a preservation counts as Octavia's.
    """
    own = (f"{AMPHORA_PREFIX}{amphora}", f"{PRESERVED_PREFIX}{amphora}")
    if found.project_id == project and found.name in own:
        return ""
    return f"server {found.id} ({found.name}) was not created by Octavia for amphora {amphora}"


def not_removable(found: Server, amphora: str, project: str) -> str:
    """Return why stackmend must not delete an amphora's server; empty without a reason."""
    if reason := foreign(found, amphora, project):
        return reason
    return f"server {found.id} of amphora {amphora} is preserved, a spare or released" if _is_marked(found) else ""
