"""Databases of a running cloud: dumped, restored in place, and exchanged for an empty schema."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cloud.control_plane import CELLS, ControlPlane, cell_database
from tests.servers.server import clean_environment

#: The schema that :func:`empty_schema` makes.
EMPTY = "nova_empty"


@dataclass(frozen=True)
class Backup:
    """The content of one database at one moment.

    :param statements: they drop each table and make it again
    """

    database: str
    statements: str

    def restore(self, cloud: ControlPlane) -> None:
        """Replace the content of the database. The services run on; what they write meanwhile fails."""
        cloud.mariadb.execute(self.statements, self.database)


def take(cloud: ControlPlane, database: str) -> Backup:
    """Dump a database with mariadb-dump."""
    return Backup(database, dump(cloud, "--single-transaction", database))


def dump(cloud: ControlPlane, *arguments: str) -> str:
    """Run mariadb-dump."""
    mariadb = cloud.mariadb
    done = subprocess.run(
        [str(mariadb.dump), *mariadb.client_arguments, "--skip-comments", *arguments],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout


@contextmanager
def empty_schema(cloud: ControlPlane) -> Iterator[None]:
    """Make a schema as ``nova-manage db sync`` leaves it: every table of a cell, and no row of Nova."""
    cloud.mariadb.drop_database(EMPTY)
    cloud.mariadb.create_database(EMPTY)
    try:
        cloud.mariadb.execute(dump(cloud, "--no-data", "nova_cell1"), EMPTY)
        cloud.mariadb.execute(dump(cloud, "nova_cell1", "alembic_version"), EMPTY)
        cloud.account.allow({"nova_cell1": [EMPTY]})
        yield
    finally:
        cloud.mariadb.drop_database(EMPTY)


@contextmanager
def led_to(cloud: ControlPlane, cell: str, database: str) -> Iterator[None]:
    """Let a cell's URL name another database.

    Running services of Nova remember the connection of a cell, so only programs that start now read the new URL.
    """
    change = "UPDATE cell_mappings SET database_connection = '{}' WHERE name = '{}'"
    cloud.mariadb.execute(change.format(cell_database(database), cell), "nova_api")
    try:
        yield
    finally:
        cloud.mariadb.execute(change.format(cell_database(f"nova_{cell}"), cell), "nova_api")


def grow_older(cloud: ControlPlane, hours: int = 3) -> None:
    """Let all instances, migrations, mappings and volumes be older, so that no handler leaves them alone as too young."""
    tables = dict.fromkeys(
        (f"nova_{cell}.{table}" for cell in CELLS for table in ("instances", "migrations")), "deleted_at"
    )
    tables |= dict.fromkeys(("nova_api.instance_mappings", "nova_api.request_specs", "nova_api.build_requests"), "")
    tables |= {"cinder.volumes": "", "cinder.volume_attachment": "attach_time"}
    for table, more in tables.items():
        columns = [column for column in ("created_at", "updated_at", more) if column]
        older = ", ".join(f"{column} = {column} - INTERVAL {hours} HOUR" for column in columns)
        cloud.mariadb.execute(f"UPDATE {table} SET {older}")
