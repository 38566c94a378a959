"""Connections to a Galera cluster. A node applies other nodes' writes late. A node outside the majority refuses statements."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

#: the node has left the majority, or does not have the state yet
UNREADY = 1047


def prepare(engine: Engine) -> None:
    """Make an engine's reads see the latest writes of every node, and end its connections to nodes that refuse statements."""
    event.listen(engine, "connect", _read_latest)
    event.listen(engine, "handle_error", _leave_unready_node)


def _read_latest(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
    if ("wsrep_on", "ON") in cursor.fetchall():
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
    cursor.close()


def _leave_unready_node(context: ExceptionContext) -> None:
    """If the node is not ready, make the pool connect again; a load balancer can then choose another node."""
    if context.original_exception.args[:1] == (UNREADY,):
        context.is_disconnect = True
