"""Runs the code of a heal without its writes, to list the writes as the plan.

Only reads reach the cloud and the database. Writing statements, and driver calls outside :data:`READS`, are recorded instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import inspection
from sqlalchemy.engine import Connection

from handlers.access.sql_text import Writing
from handlers.base import HandlerError
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import AmphoraDriverError, DeleteFailed

T = TypeVar("T")

#: calls that change nothing
READS = frozenset(
    {
        "console",
        "headroom",
        "image",
        "images",
        "port",
        "ports",
        "ports_at",
        "ports_named",
        "ports_of",
        "project",
        "require_failover",
        "security_group",
        "security_groups",
        "server",
        "server_groups",
        "servers",
    }
)
#: answers to recorded calls; None to the others
_ANSWERS: Mapping[str, object] = {"create_image": "IMAGE", "create_server": "SERVER", "untag_server": True}
_DELETIONS = frozenset(
    {"delete_image", "delete_port", "delete_security_group", "delete_server", "delete_server_group", "detach_port"}
)


def plan(driver: Driver, heal: Callable[[Driver], object]) -> str:
    """Return the writes of a heal, one on each line.

    :param heal: receives a driver that writes nothing
    """
    rehearsal = _Rehearsal(driver)
    try:
        heal(cast(Driver, rehearsal))
    except (HandlerError, AmphoraDriverError) as error:
        rehearsal.lines.append(f"-- further writes are unknown: {error}")
    return "\n".join(rehearsal.lines)


class _Rehearsal:
    """A driver that records writes. Its answers omit the objects that the recorded writes would delete."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._gone: set[str] = set()
        self.settings = driver.settings
        self.lines: list[str] = []
        self.database = _Database(driver.database, self.lines)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def read(*arguments: Any) -> Any:
            return self._without_gone(getattr(self._driver, name)(*arguments))

        def write(*arguments: Any) -> Any:
            self.lines += self._driver.requests(name, arguments)
            if name == "delete_amphora":
                raise DeleteFailed("Octavia deletes no amphora in a rehearsal")
            if name in _DELETIONS:
                self._gone.add(_identity(arguments[-1]))
            return _ANSWERS.get(name)

        return read if name in READS else write

    def _without_gone(self, answer: Any) -> Any:
        if isinstance(answer, list | tuple):
            return [one for one in answer if _identity(one) not in self._gone]
        return None if _identity(answer) in self._gone else answer


def _identity(thing: Any) -> str:
    return str(getattr(thing, "id", thing))


class _Database:
    def __init__(self, database: OctaviaDatabase, lines: list[str]) -> None:
        self._database = database
        self._lines = lines

    def run(self, work: Callable[[Connection], T]) -> T:
        def rehearsed(connection: Connection) -> tuple[T, list[Writing]]:
            recording = _Connection(connection)
            return work(cast(Connection, recording)), recording.written

        answer, written = self._database.run(rehearsed)
        self._lines += self._database.plan(written)
        return answer

    def typed(self, statement: Writing) -> str:
        return self._database.typed(statement)

    def require_known_schema(self) -> None:
        self._database.require_known_schema()


class _Done:
    rowcount = 1


class _Connection:
    def __init__(self, real: Connection) -> None:
        self.real = real
        self.written: list[Writing] = []

    def execute(self, statement: sa.Executable) -> Any:
        if isinstance(statement, sa.Insert | sa.Update | sa.Delete):
            self.written.append(statement)
            return _Done()
        if not isinstance(statement, sa.Select):
            raise TypeError(f"a rehearsal runs no {type(statement).__name__}")
        unlocked = statement._generate()
        unlocked._for_update_arg = None
        return self.real.execute(unlocked)

    def scalars(self, statement: sa.Executable) -> Any:
        return self.execute(statement).scalars()

    def scalar(self, statement: sa.Executable) -> Any:
        return self.execute(statement).scalar()


@inspection._inspects(_Connection)
def _inspected(connection: _Connection) -> Any:
    return sa.inspect(connection.real)
