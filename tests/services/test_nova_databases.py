"""Nova's databases on the servers that Nova runs on: the dialects, the errors, the locks."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from handlers.access import database as access
from handlers.access import schemas
from handlers.access.database import READ_TIMEOUT, Database
from handlers.base import Unavailable
from handlers.nova import clocks, queries, tables
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.database import NovaDatabases
from handlers.nova.records import ComputeNode
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.services.nova import add, ago, database, engine, url

KINDS = ("mariadb", "postgresql")

__all__ = ["database", "engine", "url"]


def as_user(url: str, name: str, word: str) -> str:
    return make_url(url).set(username=name, password=word).render_as_string(hide_password=False)


def cell_of(connection: sa.Connection, instance: str) -> int | None:
    mapping = queries.instance_mapping(connection, instance)
    return mapping.cell_id if mapping else None


def test_every_query_runs(engine: sa.Engine, database: Database) -> None:
    add(
        engine, tables.cell_mappings, id=1, uuid=str(uuid.uuid4()), name="cell1", database_connection="x", disabled=True
    )
    add(engine, tables.services, uuid="s", host="a", binary="nova-compute", topic="compute", created_at=ago(hours=1))
    add(engine, tables.compute_nodes, id=7, uuid="n", host="a", hypervisor_hostname="a.x", mapped=None)
    add(engine, tables.instances, uuid="i", host="a", node="a.x", created_at=ago(hours=2), updated_at=ago(minutes=5))
    add(
        engine,
        tables.migrations,
        uuid="m",
        instance_uuid="i",
        status="running",
        source_compute="a",
        source_node="a.x",
        migration_type="live-migration",
    )
    add(engine, tables.shadow_instances, id=1, uuid="si", deleted=1, hidden=False)
    add(engine, tables.shadow_instances, id=2, uuid="sh", deleted=2, hidden=True)
    add(engine, tables.shadow_migrations, id=1, uuid="sm", instance_uuid="si")
    add(engine, tables.build_requests, instance_uuid="b", project_id="p")
    add(engine, tables.instance_mappings, instance_uuid="u", project_id="p", cell_id=None)
    add(engine, tables.instance_mappings, instance_uuid="i", project_id="p", cell_id=1)
    add(engine, tables.aggregates, id=1, uuid="g", name="fast")
    add(engine, tables.aggregate_hosts, aggregate_id=1, host="a")
    some = {"i", "m", "b", "u", "si", "sh", "sm", "nobody"}

    assert [cell.disabled for cell in database.run(queries.cells)] == [True]
    database.run(lambda connection: queries.insert_host_mapping(connection, "a", 1))
    with engine.begin() as connection:
        made = connection.scalar(sa.select(tables.host_mappings.c.created_at))
        assert made is not None
        assert abs(made - ago()) < timedelta(seconds=5), "in UTC"
    assert database.run(queries.mapped_hosts) == {"a": 1}
    mapping = database.run(lambda connection: queries.host_mapping(connection, "a"))
    assert mapping is not None
    assert mapping.cell_id == 1
    [service] = database.run(queries.compute_services)
    assert service.age == pytest.approx(3600, abs=5)
    assert database.run(queries.compute_services_count) == 1
    [node] = database.run(lambda connection: queries.compute_nodes(connection, {"host": "a"}))
    assert (node.id, node.mapped, node.deleted) == (7, False, False)
    assert database.run(lambda connection: queries.compute_nodes_among(connection, "uuid", {"n", "o"})) == [node]
    assert database.run(lambda connection: connection.execute(queries.marking_mapped("a")).rowcount) == 1
    assert database.run(lambda connection: connection.execute(queries.marking_mapped("a")).rowcount) == 0
    instance = database.run(lambda connection: queries.instance(connection, "i"))
    assert instance is not None
    assert instance.age == pytest.approx(300, abs=5)
    assert database.run(lambda connection: queries.instance(connection, "nobody")) is None
    migration = database.run(lambda connection: queries.migration(connection, "m"))
    assert migration is not None
    assert database.run(lambda connection: queries.migrations_of(connection, "i")) == [migration]
    assert database.run(queries.live_instances_count) == 1
    assert database.run(lambda connection: instance_queries.rightful(connection, [node], some)) == {"n": {"i", "m"}}
    assert database.run(lambda connection: queries.known_consumers(connection, some)) == {"i", "m"}
    assert database.run(lambda connection: [row.uuid for row in queries.archived_instances(connection, some)]) == ["si"]
    assert database.run(lambda connection: queries.archived_migrations(connection, some)) == {"sm": "si"}
    assert database.run(lambda connection: queries.building(connection, some)) == {"b", "u"}
    assert database.run(lambda connection: queries.scheduling(connection, "b"))[0]
    assert database.run(lambda connection: cell_of(connection, "i")) == 1
    [aggregate] = database.run(queries.aggregates)
    assert aggregate.hosts == {"a"}


def test_two_queries_run_as_one_statement(engine: sa.Engine, database: Database) -> None:
    add(engine, tables.cell_mappings, id=1, uuid=str(uuid.uuid4()))
    add(engine, tables.build_requests, instance_uuid="b", project_id="p")
    for mapped, cell_id in (("u", None), ("i", 1)):
        add(engine, tables.instance_mappings, instance_uuid=mapped, project_id="p", cell_id=cell_id)
    add(engine, tables.instances, uuid="i", host="a", hidden=True, created_at=ago(hours=2), updated_at=ago(minutes=5))
    for number, move in ((1, "old"), (2, "young")):
        times = {"created_at": ago(minutes=9), "deleted": number}
        add(engine, tables.migrations, id=number, uuid=move, instance_uuid="i", migration_type="resize", **times)
    requested, mappings = database.run(lambda connection: queries.schedulings(connection, {"b", "u", "i", "nobody"}))
    assert (requested, {one.instance_uuid: one.cell_id for one in mappings}) == ({"b"}, {"i": 1, "u": None})
    [instance], moves = database.run(lambda connection: queries.instances_and_migrations(connection, {"i", "old"}))
    assert (instance.uuid, instance.host, instance.node, instance.deleted, instance.hidden) == (
        "i",
        "a",
        None,
        False,
        True,
    )
    assert instance.age == pytest.approx(300, abs=5)
    assert [(move.uuid, move.kind, move.deleted) for move in moves] == [
        ("young", "resize", True),
        ("old", "resize", True),
    ]
    assert moves[0].age == pytest.approx(540, abs=5)
    assert database.run(lambda connection: queries.instances_and_migrations(connection, {"nobody"})) == ([], [])


def test_only_one_of_two_maps_a_host(engine: sa.Engine, database: Database) -> None:
    add(engine, tables.cell_mappings, id=1, uuid=str(uuid.uuid4()))
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def race() -> None:
        start.wait()
        try:
            database.run(lambda connection: queries.insert_host_mapping(connection, "a", 1))
            outcomes.append("won")
        except sa.exc.IntegrityError:
            outcomes.append("lost")

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost", "lost", "lost", "won"]


def test_a_deadlock_is_tried_again(engine: sa.Engine, database: Database) -> None:
    for number in (1, 2):
        add(
            engine,
            tables.compute_nodes,
            id=number,
            uuid=str(number),
            host=str(number),
            hypervisor_hostname=str(number),
            mapped=0,
        )
    tries: dict[str, int] = {"up": 0, "down": 0}
    both = threading.Barrier(2)

    def crossing(name: str, first: int, second: int) -> None:
        def work(connection: Connection) -> None:
            tries[name] += 1
            connection.execute(queries.marking_mapped(str(first)))
            if tries[name] == 1:
                both.wait()
            connection.execute(queries.marking_mapped(str(second)))

        database.run(work)

    threads = [
        threading.Thread(target=crossing, args=("up", 1, 2)),
        threading.Thread(target=crossing, args=("down", 2, 1)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(tries.values()) > 2, "there was a deadlock"
    nodes = database.run(queries.compute_nodes)
    assert [node.mapped for node in nodes] == [True, True]


def test_the_wrong_database_is_named(url: str) -> None:
    database = Database("cell:cell1", url)
    with pytest.raises(Unavailable, match=r"cell:cell1: .*instances.*is its URL that of another database"):
        database.run(queries.live_instances_count)
    database.close()


def test_a_column_that_is_missing_is_named(engine: sa.Engine, database: Database) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE instances DROP COLUMN hidden"))
    with pytest.raises(Unavailable, match=r"nova: .*hidden"):
        database.run(lambda connection: queries.instance(connection, "i"))


def test_a_wrong_password_is_not_shown(mariadb: MariaDB, mariadb_url: str) -> None:
    mariadb.execute("CREATE USER IF NOT EXISTS 'nova'@'%' IDENTIFIED BY 'right'")
    url = as_user(mariadb_url, "nova", "verysecret")
    with pytest.raises(Unavailable, match=r"cell:cell1: .*Access denied") as caught:
        Database("cell:cell1", url).run(queries.live_instances_count)
    assert "verysecret" not in str(caught.value)


def test_a_user_that_may_only_read_gets_an_error(mariadb: MariaDB, mariadb_url: str) -> None:
    base = make_url(mariadb_url)
    made = sa.create_engine(base)
    tables.api.create_all(made)
    made.dispose()
    mariadb.execute("CREATE USER IF NOT EXISTS 'reader'@'%' IDENTIFIED BY 'r'")
    mariadb.execute(f"GRANT SELECT ON {base.database}.* TO 'reader'@'%'")
    database = Database("nova_api", as_user(mariadb_url, "reader", "r"))
    assert database.run(queries.mapped_hosts) == {}
    with pytest.raises(Unavailable, match=r"INSERT command denied.*rights"):
        database.run(lambda connection: queries.insert_host_mapping(connection, "a", 1))
    database.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_gone_and_comes_back(request: pytest.FixtureRequest, kind: str) -> None:
    server: MariaDB | PostgreSQL = request.getfixturevalue(kind)
    url = str(request.getfixturevalue(f"{kind}_url"))
    made = sa.create_engine(url)
    tables.api.create_all(made)
    add(made, tables.cell_mappings, id=1, uuid=str(uuid.uuid4()), name="cell1", database_connection=url)
    made.dispose()
    databases = NovaDatabases(url)
    assert len(databases.cells()) == 1
    server.stop()
    with pytest.raises(Unavailable) as caught:
        databases.api.run(queries.mapped_hosts)
    assert caught.value.dependency == "nova_api"
    server.start()
    assert databases.api.run(queries.mapped_hosts) == {}
    databases.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_gives_up_a_statement_that_a_frozen_server_never_ends(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_PATIENCE", 1)
    frozen = {"mariadb": ("SET SESSION max_statement_time = 0", "SELECT SLEEP(40)")}
    unbounded, sleep = frozen.get(kind, ("SET statement_timeout = 0", "SELECT pg_sleep(40)"))
    request.getfixturevalue(kind)
    made = Database("cell:cell1", str(request.getfixturevalue(f"{kind}_url")))

    def work(connection: Connection) -> None:
        connection.execute(sa.text(unbounded))
        connection.execute(sa.text(sleep))

    with pytest.raises(Unavailable, match="cell:cell1"):
        made.run(work)
    with pytest.raises(Unavailable, match="asking again in"):
        made.run(lambda connection: connection.scalar(sa.text("SELECT 1")))
    made.close()


def test_a_pooled_connection_to_a_frozen_server_waits_for_a_ping_not_for_a_statement(
    mariadb: MariaDB, mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_PATIENCE", 3600)
    made = Database("cell:cell1", f"{mariadb_url}?connect_timeout=1")
    assert made.run(lambda connection: connection.scalar(sa.text("SELECT 1"))) == 1
    mariadb.pause()
    try:
        with pytest.raises(Unavailable):
            made.run(lambda connection: connection.scalar(sa.text("SELECT 1")))
    finally:
        mariadb.resume()
    made.close()


def test_upper_and_lower_case_are_the_databases_affair(mariadb_url: str) -> None:
    """MariaDB's usual collation finds a host in any spelling; its own spelling is what is used then."""
    engine = sa.create_engine(mariadb_url)
    tables.cell.create_all(engine)
    add(engine, tables.compute_nodes, uuid="n", host="Compute-1", hypervisor_hostname="x")
    engine.dispose()
    database = Database("cell:cell1", mariadb_url)
    nodes: list[ComputeNode] = database.run(lambda connection: queries.compute_nodes(connection, {"host": "compute-1"}))
    assert {node.host for node in nodes} <= {"Compute-1"}
    database.close()


def test_the_server_ends_a_statement_that_takes_too_long(mariadb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up first would leave the statement running."""
    made = Database("cell:cell1", mariadb_url)
    assert (
        made.run(lambda connection: connection.scalar(sa.text("SELECT @@SESSION.max_statement_time"))) == READ_TIMEOUT
    )

    def slow(connection: Connection) -> None:
        connection.execute(sa.text("SET SESSION max_statement_time = 0.2"))
        connection.execute(sa.text("SELECT SUM(SQRT(a.seq + b.seq)) FROM seq_1_to_100000 a, seq_1_to_10000 b"))

    with pytest.raises(Unavailable, match="max_statement_time"):
        made.run(slow)
    made.close()


def test_the_reports_of_services_and_the_life_of_instances_are_read(engine: sa.Engine, database: Database) -> None:
    assert database.run(clocks.read) is None
    add(engine, tables.services, id=5, uuid="s", host="a", binary="nova-compute", topic="compute", report_count=7)
    add(engine, tables.instances, uuid="i", host="a", node="a.x")
    add(engine, tables.instances, uuid="d", deleted=2)
    assert database.run(clocks.read) is None, "it has never reported"
    with engine.begin() as connection:
        connection.execute(sa.update(tables.services).values(updated_at=ago(seconds=4)))
    reading = database.run(clocks.read)
    assert reading is not None
    assert reading.alive
    assert reading.reports[5][0] == 7
    assert database.run(lambda connection: queries.lives(connection, {"i", "d", "x"})) == {"i": True, "d": False}


def test_each_server_says_whether_it_accepts_writes(database: Database) -> None:
    assert not database.run(schemas.is_read_only)


def test_a_server_that_refuses_writes_is_known(mariadb: MariaDB, mariadb_url: str) -> None:
    database = Database("nova_api", mariadb_url)
    mariadb.execute("SET GLOBAL read_only = 1")
    try:
        assert database.run(schemas.is_read_only)
    finally:
        mariadb.execute("SET GLOBAL read_only = 0")
        database.close()
