"""Finds the writes of handlers that their documented rights do not permit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from handlers.access import database
from handlers.base import EVERY_TABLE, Handler, Privilege
from handlers.nova import tables as nova
from handlers.octavia import tables as octavia


@contextmanager
def unpermitted() -> Iterator[set[str]]:
    """Collect the statements of a block for which their handler has no right: handler, privilege, table.

    A statement belongs to the handler whose method runs. Locks of rows count as UPDATE, as in PostgreSQL.
    """
    found: set[str] = set()

    def look(connection: sa.Connection, statement: sa.Executable, *_: Any) -> None:
        if database._MARGIN not in connection.get_execution_options():
            return  # no connection of a handler
        for privilege, table in _needs(statement):
            handler = _running(sys._getframe())
            if handler is not None and privilege not in _granted(handler, table):
                found.add(f"{handler.name} {privilege} {table}")

    event.listen(sa.Engine, "before_execute", look)
    try:
        yield found
    finally:
        event.remove(sa.Engine, "before_execute", look)


def _needs(statement: sa.Executable) -> list[tuple[Privilege, str]]:
    match statement:
        case sa.Insert():
            return [(Privilege.INSERT, str(statement.table))]
        case sa.Update():
            return [(Privilege.UPDATE, str(statement.table))]
        case sa.Delete():
            return [(Privilege.DELETE, str(statement.table))]
        case sa.Select() if statement._for_update_arg is not None:
            return [(Privilege.UPDATE, str(table)) for table in statement.get_final_froms()]
        case _:
            return []


def _running(frame: FrameType | None) -> Handler | None:
    """Return the handler whose method runs; None while a simulated service writes."""
    while frame is not None and ".simulation." not in frame.f_globals.get("__name__", ""):
        if isinstance(found := frame.f_locals.get("self"), Handler):
            return found
        frame = frame.f_back
    return None


def _granted(handler: Handler, table: str) -> frozenset[str]:
    kind = "nova_api" if table in nova.api.tables else "octavia" if table in octavia.octavia.tables else "cell"
    rights = handler.rights.get(kind, {})
    return rights.get(table, frozenset()) | rights.get(EVERY_TABLE, frozenset())
