"""MariaDB's plans for the queries of Nova's handlers: an event must not cause a scan of a table that grows with the cloud."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.nova import queries, tables
from handlers.nova.allocations import queries as allocations
from handlers.nova.bindings import queries as bindings
from handlers.nova.devices import queries as devices
from handlers.nova.hosts import queries as hosts
from handlers.nova.info_cache import queries as info_cache
from handlers.nova.instances import queries as instances
from handlers.nova.mappings import queries as mappings
from handlers.nova.migrations import queries as migrations
from handlers.nova.ports import queries as ports
from handlers.nova.records import ComputeNode
from tests.services.nova import engine

__all__ = ["engine"]

#: rows of each table that grows with the cloud: enough that MariaDB prefers an index to a scan
ROWS = 20_000
HOSTS = 200
GROWING = (
    *(tables.instances, tables.migrations, tables.instance_extra, tables.instance_info_caches),
    *(tables.shadow_instances, tables.shadow_migrations, tables.instance_mappings),
)

Read = Callable[[Connection], object]
INSTANCE = str(uuid.UUID(int=7))
SOME = [str(uuid.UUID(int=number)) for number in range(1, 51)]
HOST, NODE = "host-7", ComputeNode(7, "n", "host-7", "host-7", True, False, 0.0)

#: by handlers: what they read after an event about one instance or one host
OF_AN_EVENT: dict[str, Read] = {
    "any instance": lambda it: queries.instance(it, INSTANCE),
    "any migration": lambda it: queries.migrations_of(it, INSTANCE),
    "any build": lambda it: queries.building(it, SOME),
    "any scheduling": lambda it: queries.schedulings(it, SOME),
    "any deleted consumer": lambda it: queries.known_consumers(it, SOME),
    "audit_allocations: consumers": lambda it: queries.instances_and_migrations(it, SOME),
    "audit_allocations: consumers of a host": lambda it: allocations.rightful(it, [NODE], SOME),
    "audit_allocations: home": lambda it: allocations.homes(it, HOST, HOST),
    "heal_allocations: instance": lambda it: allocations.descriptions(it, SOME),
    "heal_allocations: host": lambda it: allocations.residents(it, [NODE]),
    "heal_instance_mappings: mappings": lambda it: mappings.mappings_of(it, SOME),
    "heal_instance_mappings: copies": lambda it: mappings.copies(it, 1, SOME),
    "audit_ports": lambda it: ports.remains_of(it, INSTANCE),
    "audit_bindings": lambda it: bindings.hosts_at_rest(it, SOME),
    "heal_info_cache": lambda it: info_cache.cache(it, INSTANCE),
    "audit_stuck_migrations: instance": lambda it: migrations.moves_of(it, INSTANCE),
    "audit_stuck_migrations: host": lambda it: migrations.suspects(it, HOST),
    "audit_stuck_instances: instance": lambda it: instances.live_row(it, INSTANCE),
    "audit_stuck_instances: host": lambda it: instances.suspects(it, 60.0, HOST),
    "release_devices: instance": lambda it: devices.named(it, INSTANCE),
    "release_devices: host": lambda it: devices.users(it, [HOST]),
    "release_devices: device": lambda it: devices.device(it, 7, "0000:81:00.0"),
    "audit_services": lambda it: hosts.traces(it, HOST),
    "discover_hosts": lambda it: hosts.presence(it, HOST),
}
#: what scans, although an event may cause it; ``measured.rst`` names the bound of each
SCANS: dict[str, Read] = {
    "archived instances": lambda it: queries.archived_instances(it, SOME),
    "archived migrations": lambda it: queries.archived_migrations(it, SOME),
    "devices that an archived instance named": lambda it: devices.archived_named(it, INSTANCE),
    "devices that the archived instances of a host named": lambda it: devices.archived_users(it, [HOST]),
}


@pytest.fixture
def url(mariadb_url: str) -> str:
    return mariadb_url


@pytest.fixture
def database(engine: sa.Engine, url: str) -> Iterator[Database]:
    """Yield a database in which each growing table has :data:`ROWS` rows."""
    seq = "LPAD(LOWER(HEX(seq)), 12, '0')"
    one, host = f"CONCAT('00000000-0000-0000-0000-', {seq})", f"CONCAT('host-', seq % {HOSTS})"
    values = {
        "uuid": one,
        "instance_uuid": one,
        "host": host,
        "node": host,
        "source_compute": host,
        "dest_compute": host,
        "deleted": "IF(seq % 2, seq, 0)",
        "hidden": "0",
        "vm_state": "'active'",
        "status": "'completed'",
        "project_id": "'p'",
        "created_at": "NOW()",
    }
    with engine.begin() as connection:
        connection.execute(sa.text("SET foreign_key_checks = 0"))
        for table in GROWING:
            there = {name: value for name, value in values.items() if name in table.c}
            connection.execute(
                sa.text(
                    f"INSERT INTO {table.name} (id, {', '.join(there)}) "
                    f"SELECT seq, {', '.join(there.values())} FROM seq_1_to_{ROWS}"
                )
            )
        connection.execute(sa.text(f"ANALYZE TABLE {', '.join(table.name for table in GROWING)}"))
    made = Database("nova", url)
    yield made
    made.close()


def scanned(engine: sa.Engine, database: Database, read: Read) -> set[str]:
    """Return the growing tables of which a function's queries scan the rows or a whole index."""
    asked: list[tuple[str, Any]] = []
    mine = threading.get_ident()

    def keep(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if threading.get_ident() == mine and re.match(r"\W*SELECT", statement):
            asked.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", keep)
    try:
        database.run(read)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", keep)
    assert asked
    large = {table.name for table in GROWING}
    found: set[str] = set()
    with engine.connect() as connection:
        for statement, parameters in asked:
            for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings():
                if row["type"] in {"ALL", "index"} and row["table"] in large and int(row["rows"] or 0) > ROWS // 10:
                    found.add(str(row["table"]))
    return found


def test_no_query_of_an_event_scans_a_large_table(engine: sa.Engine, database: Database) -> None:
    found = {name: scanned(engine, database, read) for name, read in OF_AN_EVENT.items()}
    assert {name: scans for name, scans in found.items() if scans} == {}


def test_the_consumers_of_a_host_need_no_index_of_2026_2(engine: sa.Engine, database: Database) -> None:
    with engine.begin() as connection:
        for end in ("src", "dest"):
            connection.execute(sa.text(f"DROP INDEX migrations_by_{end}_host_nodes_and_status_idx ON migrations"))
    read = OF_AN_EVENT["audit_allocations: consumers of a host"]
    assert scanned(engine, database, read) == set()


def test_only_the_queries_of_the_documentation_scan(engine: sa.Engine, database: Database) -> None:
    """An index that Nova adds, or a query without its scan, makes this list shorter."""
    found = {name: scanned(engine, database, read) for name, read in SCANS.items()}
    assert found == {
        "archived instances": {"shadow_instances"},
        "archived migrations": {"shadow_migrations"},
        "devices that an archived instance named": {"shadow_instances"},
        "devices that the archived instances of a host named": {"shadow_instances"},
    }
