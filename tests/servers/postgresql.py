"""A private PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from tests.servers import packages
from tests.servers.server import (
    HOST,
    PASSWORD,
    USER,
    Certificate,
    Process,
    Server,
    clean_environment,
    run,
)


class PostgreSQL(Server):
    """A server that survives ``kill`` with all that was committed.

    PostgreSQL refuses to run as root; then it runs as ``postgres`` or ``nobody``, who owns the
    folder. Nothing is synchronised to disk, which matters only when the whole machine dies.

    :param tls: refuse whoever comes without TLS, and show this certificate
    """

    name = "postgresql"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait until the last client has gone

    def __init__(self, folder: Path, tls: Certificate | None = None) -> None:
        super().__init__(folder)
        self._tls = tls
        self._initdb = packages.find("initdb", "postgresql")
        self._server = packages.find("postgres", "postgresql")
        self._psql = packages.find("psql", "postgresql")
        self._as_user: list[str] = []
        self._owner: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            self._owner = _unprivileged()
            self._as_user = [
                str(packages.find("setpriv", "util-linux")),
                f"--reuid={self._owner.pw_uid}",
                f"--regid={self._owner.pw_gid}",
                "--clear-groups",
            ]

    def url(self, database: str = "postgres", driver: str = "postgresql+psycopg") -> str:
        """The address for SQLAlchemy."""
        return f"{driver}://{USER}:{PASSWORD}@{HOST}:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run statements with psql, each its own transaction; rows as tab separated lines."""
        return run(self._client(database), self._environment, sql)

    def create_database(self, name: str) -> None:
        self.execute(f'CREATE DATABASE "{name}"')

    def drop_database(self, name: str) -> None:
        """Drop it even when a client is still connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._owner is not None:
            for path in (self.folder, password):
                shutil.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        run(
            [
                *self._as_user,
                self._initdb,
                f"--pgdata={self.folder / 'data'}",
                f"--username={USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ],
            self._environment,
        )

        if self._tls is not None:
            self._secure(self._tls)

    def _secure(self, tls: Certificate) -> None:
        """Take the certificate, whose key must be the server's own file, and let nobody in without TLS."""
        for file, name in ((tls.chain, "server.crt"), (tls.key, "server.key")):
            own = self.folder / "data" / name
            shutil.copy(file, own)
            own.chmod(0o600)
            if self._owner is not None:
                shutil.chown(own, self._owner.pw_uid, self._owner.pw_gid)
        (self.folder / "data" / "pg_hba.conf").write_text(f"hostssl all all {HOST}/32 scram-sha-256\n")

    def spawn(self) -> Process:
        settings: dict[str, object] = {
            "port": self.port,
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "ssl": "on" if self._tls else "off",
        }
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        return Process(
            [*self._as_user, self._server, "-D", self.folder / "data", *options],
            self._environment,
            self.log,
        )

    def answers(self) -> bool:
        done = subprocess.run(
            self._client("postgres"),
            env=self._environment,
            input=b"SELECT 1",
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def _client(self, database: str) -> list[str]:
        return [
            str(self._psql),
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--field-separator=\t",
            "--set=ON_ERROR_STOP=1",
            f"--host={HOST}",
            f"--port={self.port}",
            f"--username={USER}",
            database,
        ]

    @property
    def _environment(self) -> dict[str, str]:
        return clean_environment(PGPASSWORD=PASSWORD, HOME=str(self.folder))


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise packages.Missing("PostgreSQL refuses root: add a user named postgres or nobody")
