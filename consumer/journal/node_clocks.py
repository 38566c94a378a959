"""Reads the clocks of the Galera nodes that serve the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import Connection

from consumer.journal.database import Database, now, open_engine
from consumer.journal.errors import JournalError

_HIDDEN = "Galera does not list its address; set wsrep_node_incoming_address on each node"


@dataclass(frozen=True, slots=True)
class NodeClock:
    """The clock of one Galera node.

    :param ahead: seconds by which the clock is ahead of this machine's clock; None if unknown
    """

    node: str
    ahead: float | None
    error: str = ""


def node_clocks(database: Database) -> list[NodeClock]:
    """Return an empty list without Galera.

    :raises JournalUnavailable: the journal does not answer
    """
    if database.engine.dialect.name not in ("mysql", "mariadb"):
        return []
    incoming = database.read(_incoming)
    return [_clock_of(database, host, port) for host, port in addresses(incoming)] + list(hidden(incoming))


def addresses(text: str) -> Iterator[tuple[str, int]]:
    """Yield host and port of each node in ``wsrep_incoming_addresses``; skip nodes without an address, such as arbitrators."""
    for address in text.split(","):
        host, _, port = address.strip().rpartition(":")
        if host and port.isdigit():
            yield host.strip("[]"), int(port)


def hidden(text: str) -> Iterator[NodeClock]:
    """Yield an unknown clock for each node that ``wsrep_incoming_addresses`` lists as ``AUTO``."""
    # MariaDB lists AUTO if a node listens at a loopback address only, or knows no address of its own.
    for address in text.split(","):
        if address.strip() == "AUTO":
            yield NodeClock("a node", None, _HIDDEN)


def _incoming(connection: Connection) -> str:
    row = connection.exec_driver_sql("SHOW STATUS LIKE 'wsrep_incoming_addresses'").first()
    return str(row[1]) if row else ""


def _clock_of(database: Database, host: str, port: int) -> NodeClock:
    name = f"{host}:{port}"
    # Without unix_socket, which would reach the node of this machine.
    url = database.engine.url.set(host=host, port=port).difference_update_query(["unix_socket"])
    with closing(Database(open_engine(url.render_as_string(hide_password=False), pool_size=1))) as node:
        try:
            node.read(now)  # connects, which takes longer than reading a clock
            before = time.time()
            there = node.read(now)
            return NodeClock(name, there - (before + time.time()) / 2)
        except JournalError as error:
            return NodeClock(name, None, f"{error}. Let this machine connect to that node")
