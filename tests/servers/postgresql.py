"""A private PostgreSQL server, and a primary with a standby."""

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
    wait_for,
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
        self._control = packages.find("pg_ctl", "postgresql")
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

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def stop_immediately(self) -> None:
        """Abort all that runs, as ``pg_ctl stop -m immediate``: the next start recovers from the log."""
        self._run_control("stop", "--mode=immediate")
        self.kill()

    def _run_control(self, *arguments: str) -> None:
        run([*self._as_user, self._control, *arguments, f"--pgdata={self.data}", "--wait"], self._environment)

    def _give(self, *paths: Path) -> None:
        """Give files to the user that the server runs as."""
        if self._owner is not None:
            for path in paths:
                shutil.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self._give(self.folder, password)
        run(
            [
                *self._as_user,
                self._initdb,
                f"--pgdata={self.data}",
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
            own = self.data / name
            shutil.copy(file, own)
            own.chmod(0o600)
            self._give(own)
        (self.data / "pg_hba.conf").write_text(f"hostssl all all {HOST}/32 scram-sha-256\n")

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
            [*self._as_user, self._server, "-D", self.data, *options],
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


class Standby(PostgreSQL):
    """A hot standby, which streams the log of a primary until it is promoted.

    :param primary: must run when the standby starts for the first time
    """

    name = "standby"

    def __init__(self, folder: Path, primary: PostgreSQL) -> None:
        super().__init__(folder)
        self._primary = primary
        self._backup = packages.find("pg_basebackup", "postgresql")

    def prepare(self) -> None:
        self._give(self.folder)
        where = [f"--host={HOST}", f"--port={self._primary.port}", f"--username={USER}"]
        copy = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", f"--pgdata={self.data}"]
        run([*self._as_user, self._backup, *where, *copy], self._environment)

    def promote(self) -> None:
        """Make it a primary, and return when it accepts writes."""
        self._run_control("promote")


class Pair:
    """A primary, and a standby that confirms each commit, so that a promotion loses nothing."""

    def __init__(self, folder: Path) -> None:
        self.primary = PostgreSQL(folder / "primary")
        self.standby = Standby(folder / "standby", self.primary)

    def start(self) -> None:
        for server in (self.primary, self.standby):
            server.start()
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()")
        query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_for(lambda: self.primary.execute(query).strip() == "1", 60, "a standby that confirms commits")

    def stop(self) -> None:
        """Stop both. They keep no data for another start."""
        for server in (self.primary, self.standby):
            server.kill()

    def url(self, database: str) -> str:
        """Return the address of a database on whichever of both is the primary."""
        ports = f"{self.primary.port},{self.standby.port}"
        query = f"host={HOST},{HOST}&port={ports}&target_session_attrs=read-write"
        return f"postgresql+psycopg://{USER}:{PASSWORD}@/{database}?{query}"


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise packages.Missing("PostgreSQL refuses root: add a user named postgres or nobody")
