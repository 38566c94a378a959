"""Makes Nova's databases in a local MariaDB and runs Placement, for ``deploy/ansible/try``; writes the role's variables."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from handlers.nova import revisions, tables
from handlers.nova.cells import CELL0
from handlers.nova.simulation.placement import PlacementServer
from handlers.octavia import tables as octavia_tables

SOCKET = "/run/mysqld/mysqld.sock"
SCHEMAS = {
    "nova_api": (tables.api, tables.api_version, "cdeec0c85668"),
    "nova_cell0": (tables.cell, tables.cell_version, "2903cd72dc14"),
    "nova_cell1": (tables.cell, tables.cell_version, "2903cd72dc14"),
    "octavia": (octavia_tables.octavia, None, ""),
}


def made(name: str) -> sa.Engine:
    """Create a database with its tables; wait for the server."""
    metadata, version, revision = SCHEMAS[name]
    server = sa.create_engine(f"mysql+pymysql://root@localhost/?unix_socket={SOCKET}")
    for _ in range(60):
        try:
            with server.begin() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb3")
            break
        except sa.exc.OperationalError:
            time.sleep(1)
    engine = sa.create_engine(f"mysql+pymysql://root@localhost/{name}?unix_socket={SOCKET}")
    metadata.create_all(engine)
    if version is not None:
        assert revision in revisions.KNOWN
        with engine.begin() as connection:
            connection.execute(sa.insert(version).values(version_num=revision))
    return engine


def main(folder: Path) -> None:
    engines = {name: made(name) for name in SCHEMAS}
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    with engines["nova_api"].begin() as connection:
        for number, name in enumerate(("cell0", "cell1")):
            values = {
                "id": number + 1,
                "uuid": str(uuid.uuid4()) if number else CELL0,
                "name": name,
                "transport_url": "none:///" if not number else "{scheme}://{username}:{password}@{hostname}:{port}/",
                "database_connection": f"mysql+pymysql://{{username}}:{{password}}@{{hostname}}/nova_{name}",
                "disabled": False,
            }
            connection.execute(sa.insert(tables.cell_mappings).values(values))
    with engines["nova_cell1"].begin() as connection:
        host = {"host": "compute-1", "created_at": now, "updated_at": now, "deleted": 0, "uuid": str(uuid.uuid4())}
        service = {
            "binary": "nova-compute",
            "topic": "compute",
            "report_count": 1,
            "disabled": False,
            "forced_down": False,
        }
        service |= {"last_seen_up": now, "version": 70}
        columns = tables.services.c.keys()
        row = {name: value for name, value in (host | service).items() if name in columns}
        connection.execute(sa.insert(tables.services).values(row))
    placement = PlacementServer(folder)
    placement.start()
    account = "stackmend:SECRET@127.0.0.1"
    variables = {
        "stackmend_package": "stackmend[mysql]",
        "stackmend_hosts": "all",
        "stackmend_run": "none",
        "stackmend_system_packages": [],
        "stackmend_database_password": "SECRET",
        "stackmend_database_names": {
            "nova_api": ["nova_api"],
            "cell": ["nova_cell0", "nova_cell1"],
            "octavia": ["octavia"],
        },
        "stackmend_rabbitmq_password": "SECRET",
        "stackmend_config": {
            "nova": {
                "api_database_connection": f"mysql+pymysql://{account}/nova_api",
                "database_connection": f"mysql+pymysql://{account}/nova_cell0",
                "transport_url": f"rabbit://{account}:5672/",
            },
            "journal": {"connection": "sqlite:////var/lib/stackmend/journal.sqlite"},
            "openstack": {
                "auth_type": "admin_token",
                "endpoint": placement.url,
                "token": placement.TOKEN,
                "placement_endpoint_override": placement.url,
            },
        },
    }
    (folder / "try.json").write_text(json.dumps(variables))
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
