"""The empty databases of the services.

Migrating them takes more than a minute, loading a dump of the result two seconds. The dumps are
kept beside the environment whose migrations made them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
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
        "cinder": ["cinder-manage", "--config-file", etc / "cinder" / "cinder.conf", "db", "sync"],
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

    def one(database: str) -> None:
        copies = [f"nova_{cell}" for cell in cells] if database == "nova_cell0" else []
        create(mariadb, dumps, [database, *copies], lambda: tool(*migrations[database]))

    with ThreadPoolExecutor(4) as pool:
        # The slowest first.
        list(pool.map(one, sorted(migrations, key=lambda name: name != "neutron")))


def create(mariadb: MariaDB, dumps: Path, names: Sequence[str], migrate: Callable[[], object]) -> None:
    """Create databases of one schema anew, empty. ``migrate`` fills the first one, if it was never dumped."""
    dumps.mkdir(parents=True, exist_ok=True)
    dump = dumps / f"{names[0]}.sql"
    for name in names:
        mariadb.drop_database(name)
        mariadb.create_database(name)
    migrated = not dump.exists()
    if migrated:
        migrate()
        _dump(mariadb, names[0], dump)
    for name in names[migrated:]:
        mariadb.execute(dump.read_text(), name)


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
