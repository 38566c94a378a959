"""Decides whether Octavia's database and the cloud belong together.

They do not after a mistake in the configured region, with a second Octavia in the project, or after a restore of a database.
Then Nova lacks many of the servers that amphora rows name, or many servers have no row. stackmend then removes no leftover
except heartbeat records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from handlers.octavia import names, records
from handlers.octavia.cloud_objects import Server

#: the part of our servers that Nova must show
SEEN = 0.9
#: servers without a row that are still taken for leftovers: this number, or this part of our servers
FEW, FEW_PART = 2, 0.05


@dataclass(frozen=True, slots=True)
class Pairing:
    """Numbers of servers that amphora rows name and that Nova shows.

    :param named: servers in the rows of amphorae on load balancers
    :param seen: servers of ``named`` that Nova shows
    :param strangers: servers with an amphora's name, but without a row
    """

    named: int
    seen: int
    strangers: int


def pairing(servers: Iterable[Server], live: Iterable[records.Amphora], deleted: Iterable[records.Amphora]) -> Pairing:
    """Compare the servers of Octavia's project with all amphora rows, which are ``live`` or ``deleted``."""
    live, shown = list(live), {server.id: server for server in servers}
    known = [*live, *deleted]
    ids, owned = {row.id for row in known}, {row.compute_id for row in known}
    serving = {row.compute_id for row in live if row.load_balancer_id and row.compute_id}
    strangers = [
        server
        for server in shown.values()
        if (amphora := names.amphora_of_server(server.name)) and amphora not in ids and server.id not in owned
        if not names.is_kept(server)
    ]
    return Pairing(len(serving), len(serving & shown.keys()), len(strangers))


@dataclass(frozen=True, slots=True)
class _Rule:
    applies: Callable[[Pairing], bool]
    reason: str


#: The first rule that applies is the reason why nothing may be removed.
RULES = (
    _Rule(
        lambda p: not p.named,
        "no row names the server of a serving amphora, so nothing proves that this database and this cloud belong together",
    ),
    _Rule(
        lambda p: p.seen < SEEN * p.named,
        "Nova shows {p.seen} of the {p.named} servers that Octavia's rows name: are region and database the right ones?",
    ),
    _Rule(
        lambda p: p.strangers > max(FEW, FEW_PART * p.named),
        "{p.strangers} servers with the names of amphorae have no row: is there a second Octavia, or a restored database?",
    ),
)


def mismatch(found: Pairing) -> str:
    """Return why database and cloud perhaps do not belong together; empty without a reason."""
    return next((rule.reason.format(p=found) for rule in RULES if rule.applies(found)), "")
