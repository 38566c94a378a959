"""Records the writes that reach services and databases, as lines of a plan."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import requests
import sqlalchemy as sa
from requests.adapters import HTTPAdapter
from sqlalchemy.engine import Connection

#: headers that are a part of a plan
_HEADERS = ("If-Match",)
_READS = frozenset({"GET", "HEAD"})


@contextmanager
def recorded(services: Mapping[str, str], databases: Mapping[str, str]) -> Iterator[list[str]]:
    """Return the list to which each write of this thread is added while the block runs, and each program that it starts.

    :param services: names in plans, by endpoint
    :param databases: names in plans, by the file of an SQLite database
    """
    lines: list[str] = []
    # simulated services write in threads of their own
    caller = threading.get_ident()
    send = HTTPAdapter.send
    begin = subprocess.Popen.__init__

    def started(self: subprocess.Popen[bytes], arguments: Sequence[str], *given: Any, **more: Any) -> None:
        lines.append(f"hook: {shlex.join(arguments)}")
        begin(self, arguments, *given, **more)

    def on_the_wire(self: HTTPAdapter, request: requests.PreparedRequest, *given: Any, **more: Any) -> Any:
        target = str(request.url)
        found = next((url for url in services if target.startswith(url)), None)
        if found is not None and request.method not in _READS:
            headers = [f"{name}: {request.headers[name]!s}" for name in _HEADERS if name in request.headers]
            body = [_sorted(request.body)] if isinstance(request.body, str | bytes) else []
            path = target.removeprefix(found)
            lines.append(" ".join([f"{services[found]}:", str(request.method), path, *headers, *body]))
        return send(self, request, *given, **more)

    def executed(connection: Connection, clause: Any, several: Any, values: Any, options: Any) -> None:
        name = databases.get(str(connection.engine.url.database))
        if (
            threading.get_ident() == caller
            and name is not None
            and isinstance(clause, sa.Insert | sa.Update | sa.Delete)
        ):
            rows = several or ([values] if values else [None])
            for row in rows:
                statement = clause if row is None else clause.values(row)  # type: ignore[union-attr]
                text = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
                lines.append(f"{name}: {text};")

    sa.event.listen(sa.Engine, "before_execute", executed)
    try:
        with (
            mock.patch.object(HTTPAdapter, "send", on_the_wire),
            mock.patch.object(subprocess.Popen, "__init__", started),
        ):
            yield lines
    finally:
        sa.event.remove(sa.Engine, "before_execute", executed)


def _sorted(body: str | bytes) -> str:
    return json.dumps(json.loads(body), sort_keys=True)
