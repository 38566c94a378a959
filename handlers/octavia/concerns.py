"""Names the concerns of a finding.

A superfluous name can only withhold a heal. But if a name is missing, stackmend can heal an exempt object.
"""

from __future__ import annotations

from collections.abc import Iterable

from handlers.octavia import records
from handlers.octavia.cloud_objects import Server

#: the kinds of objects of which these functions name all that a finding belongs to
KINDS = frozenset({"amphora", "host", "load-balancer", "project", "server"})


def named(kind: str, *names: str | None) -> frozenset[str]:
    return frozenset(f"{kind}:{name}" for name in names if name)


def of_server(server: Server | None) -> frozenset[str]:
    if server is None:
        return frozenset()
    own = named("server", server.id) | named("instance", server.id)
    return own | named("host", server.host) | named("project", server.project_id)


def of_balancer(balancer: records.LoadBalancer | None) -> frozenset[str]:
    if balancer is None:
        return frozenset()
    return named("load-balancer", balancer.id) | named("project", balancer.project_id)


def of_amphorae(amphorae: Iterable[records.Amphora]) -> frozenset[str]:
    found = frozenset[str]()
    for row in amphorae:
        found |= named("amphora", row.id) | named("server", row.compute_id) | named("instance", row.compute_id)
        found |= named("load-balancer", row.load_balancer_id)
    return found
