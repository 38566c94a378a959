"""The real Placement without work that it has done before: tests ask it thousands of times, mostly for the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from jsonschema.validators import validator_for
from oslo_config import cfg
from sqlalchemy.engine import make_url

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
#: of a request: what an answer depends on, beside the database
_ASKED = ("PATH_INFO", "QUERY_STRING", "HTTP_ACCEPT", "HTTP_OPENSTACK_API_VERSION", "HTTP_X_AUTH_TOKEN")


@contextmanager
def frugal() -> Iterator[None]:
    """Let each Placement that starts check each of its schemas once, and answer a GET again while its database is the same."""
    from placement import deploy

    load = deploy.loadapp
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        _check_each_schema_once(patch)

        def remembering(conf: cfg.ConfigOpts) -> WsgiApp:
            file = make_url(conf.placement_database.connection).database or ""
            connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            return Remembering(load(conf), stack.enter_context(closing(connection)))

        patch.setattr(deploy, "loadapp", remembering)
        yield


def _check_each_schema_once(patch: pytest.MonkeyPatch) -> None:
    kind = validator_for({})
    check = kind.check_schema
    checked: dict[int, Any] = {}  # with the schemas, so that no other one gets their ids

    def check_once(schema: Any, *more: Any, **named: Any) -> None:
        if id(schema) not in checked:
            check(schema, *more, **named)
            checked[id(schema)] = schema

    patch.setattr(kind, "check_schema", check_once)


class Remembering:
    """An application that gives an answer again while its database is the same. It serves one request at a time.

    :param connection: to the database; it writes nothing, so that SQLite counts the writes of all others
    """

    def __init__(self, application: WsgiApp, connection: sqlite3.Connection) -> None:
        self._application = application
        self._connection = connection
        self._version = 0
        self._answers: dict[tuple[str, ...], tuple[tuple[Any, ...], list[bytes]]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return self._application(environ, start_response)
        [version] = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._answers.clear()
        asked = tuple(str(environ.get(name, "")) for name in _ASKED)
        if asked not in self._answers:
            started: list[tuple[Any, ...]] = []
            body = list(self._application(environ, lambda *head: started.append(head)))
            self._answers[asked] = started[-1], body
        head, body = self._answers[asked]
        start_response(*head)
        return body
