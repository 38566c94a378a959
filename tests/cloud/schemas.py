"""The empty databases of the services.

Migrating them takes more than a minute, loading a dump of the result two seconds. The dumps are
kept beside the environment whose migrations made them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cloud.configuration import Configuration
from tests.servers.mariadb import MariaDB
from tests.servers.server import clean_environment

Tool = Callable[..., object]


def load(configuration: Configuration, dumps: Path, tool: Tool, cells: list[str]) -> None:
    """Create all databases. ``tool`` runs one of the services' command line programs."""
    mariadb = configuration.mariadb
    etc = configuration.folder / "etc"
    octavia = configuration.write_octavia({})
    migrations: dict[str, list[str | Path]] = {
        "keystone": ["keystone-manage", "--config-dir", etc / "keystone", "db_sync"],
        "glance": ["glance-manage", "--config-dir", etc / "glance", "db_sync"],
        "placement": ["placement-manage", "--config-dir", etc / "placement", "db", "sync"],
        "nova_api": ["nova-manage", "--config-file", configuration.nova, "api_db", "sync"],
        "nova_cell0": [
            "nova-manage",
            "--config-file",
            configuration.nova,
            "db",
            "sync",
            "--local_cell",
        ],
        "neutron": [
            *("neutron-db-manage", "--config-file", etc / "neutron" / "neutron.conf"),
            *("upgrade", "heads"),
        ],
        "octavia": ["octavia-db-manage", "--config-file", octavia, "upgrade", "head"],
    }
    dumps.mkdir(parents=True, exist_ok=True)

    def one(database: str) -> None:
        dump = dumps / f"{database}.sql"
        names = [database]
        if database == "nova_cell0":
            names += [f"nova_{cell}" for cell in cells]
        for name in names:
            mariadb.drop_database(name)
            mariadb.create_database(name)
        if not dump.exists():
            tool(*migrations[database])
            _dump(mariadb, database, dump)
            names.remove(database)
        for name in names:
            mariadb.execute(dump.read_text(), name)

    with ThreadPoolExecutor(4) as pool:
        # The slowest first.
        list(pool.map(one, sorted(migrations, key=lambda name: name != "neutron")))


def _dump(mariadb: MariaDB, database: str, target: Path) -> None:
    done = subprocess.run(
        [str(mariadb.dump), *mariadb.client_arguments, "--skip-comments", database],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    partial = target.with_suffix(".partial")
    partial.write_bytes(done.stdout)
    partial.rename(target)
