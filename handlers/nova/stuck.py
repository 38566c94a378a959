"""The base of handlers for tasks, builds and migrations that no service of Nova works on any more."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from sqlalchemy.engine import Connection

from handlers.base import Finding, Key, keys_of
from handlers.nova.base import DatabaseHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances
from handlers.nova.verdicts import Wait, findings_or_wait


class StuckHandler(DatabaseHandler):
    """The base of a handler whose key is an instance, or a host for all suspects of that host.

    :param after: seconds without a change after which a record counts as stuck
    """

    kinds = ("instance", "host")

    def __init__(self, databases: NovaDatabases, after: float) -> None:
        super().__init__(databases)
        self._after = after

    @abstractmethod
    def suspects(self, connection: Connection, host: str | None = None) -> Iterable[str]:
        """Return the uuids of a cell's suspects, or only of the suspects on ``host``."""

    @abstractmethod
    def judge(self, key: Key, instance: str) -> Iterator[Finding | Wait]:
        """Yield the findings about one instance, or why the inspection must wait."""

    def inspect(self, key: Key) -> Sequence[Finding]:
        instances = self._of_host(key.id) if key.kind == "host" else [key.id]
        judged = [one for instance in instances for one in self.judge(key, instance)]
        findings = [one for one in judged if isinstance(one, Finding)]
        return findings_or_wait(findings, [one for one in judged if isinstance(one, Wait)])

    def sweep(self) -> Iterator[Key]:
        found, down = self._databases.run_in_available(self._databases.host_cells(), self.suspects)
        yield from keys_of("instance", _sorted(found.values()))
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def _of_host(self, host: str) -> list[str]:
        cells = self._databases.host_cells()
        return _sorted(self._databases.run_in_all(cells, partial(self.suspects, host=host)).values())


def _sorted(found: Iterable[Iterable[str]]) -> list[str]:
    return sorted({instance for some in found for instance in some})
