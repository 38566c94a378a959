"""The real Placement service on loopback, in this process, with its database in a file.

openstack-placement's own WSGI application runs without Keystone (the token ``admin`` is an administrator). Placement keeps
database connection, policy and traits in globals of its modules, so a process can run only one server at a time.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from oslo_config import cfg

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class PlacementMissing(Exception):
    """stackmend demo needs the extra: pip install stackmend[demo]"""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Mapping[str, Any] = field(default_factory=dict)


class PlacementServer:
    """A Placement service with its database in ``folder``. The next start uses the same port and database."""

    TOKEN: ClassVar[str] = "admin"  # noqa: S105 (noauth2's word for an administrator)
    #: held by the running server: Placement can serve one database per process
    _only_one: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.database = folder / "placement.db"
        self._port = 0
        self._http: _Server | None = None
        self._thread: threading.Thread | None = None
        self._application: _Application | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve until :meth:`stop`; create the database at the first start.

        :raises RuntimeError: another server runs in this process
        """
        if self._http is not None:
            return
        if not self._only_one.acquire(blocking=False):
            raise RuntimeError("another PlacementServer runs in this process; stop it first")
        try:
            self._application = _Application(self.database)
            self._http = _Server(("127.0.0.1", self._port), self._application)
        except BaseException:
            if self._application is not None:
                self._application.close()
                self._application = None
            self._only_one.release()
            raise
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, name="placement", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection; a running request might get no answer."""
        if self._http is None or self._thread is None or self._application is None:
            return
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()
        self._application.close()
        self._http = self._thread = self._application = None
        self._only_one.release()

    def request(self, method: str, path: str, body: Any = None, version: str = "1.36") -> Reply:
        """:raises ConnectionError: while the server is stopped"""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {
            "X-Auth-Token": self.TOKEN,
            "OpenStack-API-Version": f"placement {version}",
            "Content-Type": "application/json",
        }
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        return Reply(reply.status, json.loads(data) if data else {})


class _Application:
    def __init__(self, database: Path) -> None:
        try:
            from oslo_db.sqlalchemy import enginefacade
            from placement import db_api, deploy, policy
            from placement.db.sqlalchemy import migration
            from placement.objects import resource_class, trait
        except ImportError as error:
            raise PlacementMissing from error

        logging.getLogger("placement.requestlog").setLevel(logging.WARNING)
        self._lock = threading.Lock()
        self._closed = False
        self._policy = policy
        url = f"sqlite:///{database.absolute()}"
        transactions = enginefacade.transaction_context()
        transactions.configure(connection=url, sqlite_fk=True, sqlite_synchronous=False)
        self._take_back = db_api.placement_context_manager.patch_factory(transactions)
        self._engine = db_api.get_placement_engine()
        try:
            migration.create_schema(self._engine)
            trait._TRAITS_SYNCED = resource_class._RESOURCE_CLASSES_SYNCED = False
            policy.reset()
            self._serve: WsgiApp = deploy.loadapp(self._configuration(url))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _configuration(url: str) -> cfg.ConfigOpts:
        from oslo_middleware import cors, http_proxy_to_wsgi
        from oslo_policy import opts as policy_options
        from placement.conf import api, base, database, paths, placement, workarounds

        conf = cfg.ConfigOpts()
        for module in (api, base, database, paths, placement, workarounds):
            module.register_opts(conf)
        policy_options.set_defaults(conf)
        conf.register_opts(cors.CORS_OPTS, "cors")
        conf.register_opts(http_proxy_to_wsgi.OPTS, "oslo_middleware")
        conf.set_override("auth_strategy", "noauth2", "api")
        conf.set_override("connection", url, "placement_database")
        conf([], project="placement", default_config_files=[], default_config_dirs=[])
        return conf

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("Placement was stopped")
            chunks = self._serve(environ, start_response)
            try:
                return list(chunks)
            finally:
                close = getattr(chunks, "close", None)
                if callable(close):
                    close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._policy.reset()
            self._take_back()
            self._engine.dispose()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], application: _Application) -> None:
        self.application = application
        self._open: set[socket.socket] = set()
        super().__init__(address, _Request)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in tuple(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client closed it first

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            logging.getLogger(__name__).exception("Placement's server failed on a request")


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self) -> None:
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(url.path, "iso-8859-1"),
            "QUERY_STRING": url.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(content)),
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_address[1]),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(content),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        environ.update(
            (f"HTTP_{name.upper().replace('-', '_')}", value)
            for name, value in self.headers.items()
            if name.lower() not in {"content-type", "content-length"}
        )
        answer: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            answer.append((status, headers))

        body = b"".join(self.server.application(environ, start_response))
        status, headers = answer[-1]
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection"}:
                self.send_header(name, value)
        if int(code) != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 (http.server's names)

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request."""
