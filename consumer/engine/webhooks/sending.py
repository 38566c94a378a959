"""Makes one attempt to deliver a message. Errors do not name the URL, which can be secret."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from consumer import __version__
from consumer.conf.webhooks import Sink
from consumer.engine.webhooks import signature

#: Answers after which another attempt with the same body is useless.
_REFUSED = frozenset({400, 413, 422})
#: The longest pause that an answer can ask for, in seconds.
_LONGEST = 3600.0


class _Connections:
    """The connections of one attempt. At the deadline they end, however slowly a receiver sends its headers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.ended = False
        self._sockets: list[socket.socket] = []

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connection.dup())  # TLS takes the socket itself
        if self.ended:
            self.end()

    def end(self) -> None:
        with self._lock:
            self.ended = True
            for connection in self._sockets:
                with suppress(OSError):  # the receiver was first
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()


_connections: ContextVar[_Connections] = ContextVar("connections")


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        _connections.get().add(made)
        return made


class _Secure(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        _connections.get().add(made)
        return made


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


_POOLS = {"http": _PlainPool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *given: Any, **named: Any) -> Any:
        manager = super().proxy_manager_for(*given, **named)
        manager.pool_classes_by_scheme = _POOLS
        return manager


#: Whether this thread posts to a URL that the log must not have.
_posts: ContextVar[bool] = ContextVar("posts", default=False)
# At level DEBUG, urllib3 logs the path of each request.
logging.getLogger("urllib3.connectionpool").addFilter(lambda _record: not _posts.get())


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of an attempt.

    :param error: why the message was not delivered; empty after a success
    :param final: whether another attempt is useless
    :param after: seconds to wait, if the receiver asked for a pause
    """

    error: str = ""
    final: bool = False
    after: float | None = None


def post(sink: Sink, message_id: str, body: bytes) -> Attempt:
    headers = {
        "Content-Type": sink.content_type,
        "User-Agent": f"stackmend/{__version__}",
        **signature.headers(sink.secret, message_id, time.time(), body),
    }
    timeout = (min(5.0, sink.timeout), sink.timeout)
    token = _posts.set(True)
    connections = _Connections()
    _connections.set(connections)
    # The timeouts of requests count from byte to byte. Twice the timeout is less than the lease of the message.
    deadline = threading.Timer(2 * sink.timeout, connections.end)
    deadline.daemon = True
    deadline.start()
    try:
        # The body of the answer is not read: it can be endless.
        with (
            _session() as session,
            session.post(
                sink.url, data=body, headers=headers, timeout=timeout, allow_redirects=False, stream=True
            ) as answer,
        ):
            if connections.ended:  # http.client takes cut headers for whole ones
                return Attempt("no answer: its headers are too slow")
            return judge(answer.status_code, answer.headers.get("Retry-After", ""))
    except (requests.RequestException, ValueError, OSError) as error:
        return Attempt(f"no answer: {type(error).__name__}")
    finally:
        deadline.cancel()
        connections.close()
        _posts.reset(token)


def _session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


def judge(status: int, retry_after: str = "") -> Attempt:
    if 200 <= status < 300:
        return Attempt()
    pause = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    return Attempt(f"answered {status}", status in _REFUSED, None if pause is None else min(pause, _LONGEST))
