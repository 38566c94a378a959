"""A private MariaDB server."""

from __future__ import annotations

import os
import pwd
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

_RIGHTS = "".join(
    f"CREATE OR REPLACE USER {USER}@'{host}' IDENTIFIED BY '{PASSWORD}';\n"
    f"GRANT ALL ON *.* TO {USER}@'{host}' WITH GRANT OPTION;\n"
    for host in ("%", "localhost")
)


class MariaDB(Server):
    """A server with an own socket; it survives ``kill`` with all that was committed.

    The redo log is written, but not synchronised to disk, at each commit: that loses nothing
    when only the process dies, and is much faster.

    :param tls: refuse whoever comes over the network without TLS, and show this certificate
    """

    name = "mariadb"

    def __init__(self, folder: Path, tls: Certificate | None = None) -> None:
        super().__init__(folder)
        self._tls = tls
        self._install = packages.find("mariadb-install-db", "mariadb-server")
        self._server = packages.find("mariadbd", "mariadb-server")
        self.client = packages.find("mariadb", "mariadb-server")
        self.dump = packages.find("mariadb-dump", "mariadb-server")

    @property
    def socket(self) -> Path:
        """Must stay short: the kernel allows 107 characters."""
        return self.folder / "s"

    @property
    def client_arguments(self) -> list[str]:
        """What the client programs need to reach this server, and no other."""
        return ["--no-defaults", f"--socket={self.socket}", f"--user={USER}",
                f"--password={PASSWORD}"]  # fmt: skip

    def url(self, database: str = "", driver: str = "mysql+pymysql") -> str:
        """The address for SQLAlchemy."""
        return f"{driver}://{USER}:{PASSWORD}@{HOST}:{self.port}/{database}"

    def execute(self, sql: str, database: str = "") -> str:
        """Run statements with the command line client; rows as tab separated lines."""
        arguments: list[str | Path] = [self.client, *self.client_arguments, "-B", "-N"]
        if database:
            arguments.append(database)
        return run(arguments, clean_environment(), sql)

    def create_database(self, name: str) -> None:
        """utf8mb3, as OpenStack's migrations expect it."""
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb3")

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def prepare(self) -> None:
        (self.folder / "tmp").mkdir(exist_ok=True)
        (self.folder / "rights.sql").write_text(_RIGHTS)
        run(
            [
                self._install,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--user={self.account}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            # A server that starts removes the temporary tables that lie in its folder for them, whoever's they are.
            clean_environment(TMPDIR=str(self.folder / "tmp")),
        )

    def spawn(self) -> Process:
        return Process([self._server, *self.arguments()], clean_environment(), self.log)

    def arguments(self) -> list[str]:
        """Return the arguments of the server's program."""
        return [
            "--no-defaults",
            f"--user={self.account}",
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder / 'tmp'}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'mariadb.pid'}",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--max-connections=1000",
            "--innodb-buffer-pool-size=256M",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-doublewrite=0",
            "--innodb-log-file-size=64M",
            "--skip-log-bin",
            *self._at_start(),
            *self._secured(),
        ]

    def _at_start(self) -> list[str]:
        """Return the argument that names the statements to run at start."""
        return [f"--init-file={self.folder / 'rights.sql'}"]

    @property
    def account(self) -> str:
        """The system user of the server's process."""
        return pwd.getpwuid(os.geteuid()).pw_name

    def _secured(self) -> list[str]:
        if self._tls is None:
            return []
        names = {"ca": self._tls.authority, "cert": self._tls.chain, "key": self._tls.key}
        return ["--require-secure-transport=ON", *(f"--ssl-{name}={file}" for name, file in names.items())]

    def answers(self) -> bool:
        done = subprocess.run(
            [self.client, *self.client_arguments, "-e", "SELECT 1"],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0
