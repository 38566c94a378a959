"""The documented rights, on a real MariaDB: every heal runs with them, and each one that is missing is noticed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
import pytest
import sqlalchemy as sa
import yaml
from oslo_config import cfg
from sqlalchemy import Engine

from consumer import plugins
from handlers.access.database import Database
from handlers.base import Conflict, Handler, Key, Resources
from handlers.checks import grants
from handlers.nova import tables
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.archive.purge import Purge
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.migrations.audit_stuck_migrations import AuditStuckMigrations
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation import world as simulated
from handlers.nova.simulation.store import Store
from handlers.octavia import tables as octavia_tables
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.server import HOST

ROLE = Path(__file__).parents[2] / "deploy" / "ansible" / "roles" / "stackmend"
ACCOUNT = "'least'@'%'"
MAPPINGS = tables.instance_mappings


def rights(database: str) -> list[grants.Needs]:
    """Return the privileges that all handlers need in one kind of database."""
    return grants.rights_of(plugins.handlers(), database)


@pytest.fixture
def account(mariadb: MariaDB) -> Iterator[str]:
    """An account that may do nothing yet."""
    mariadb.start()
    mariadb.execute(f"CREATE OR REPLACE USER {ACCOUNT} IDENTIFIED BY 'l'")
    yield ACCOUNT
    mariadb.start()
    mariadb.execute(f"DROP USER {ACCOUNT}")


def least(mariadb: MariaDB, database: str) -> str:
    return f"mysql+pymysql://least:l@{HOST}:{mariadb.port}/{database}"


class Served(Store):
    """The databases of the simulation on a server."""

    server: MariaDB
    prefix = ""

    def url(self, database: str) -> str:
        return self.server.url(self.prefix + database)

    def _engine(self, database: str) -> Engine:
        self.server.create_database(self.prefix + database)
        return sa.create_engine(self.url(database))


def loaded(file: Path, given: Mapping[str, Mapping[str, str]]) -> cfg.ConfigOpts:
    sections = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in more.items()) for group, more in given.items()
    )
    file.write_text("".join(sections))
    conf = cfg.ConfigOpts()
    for handler in plugins.handlers():
        for group, options in handler.options().items():
            conf.register_opts(options, group)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return conf


@pytest.fixture
def cloud(
    tmp_path: Path, mariadb: MariaDB, account: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[NovaSimulation, Resources]]:
    """A simulated Nova on MariaDB, and handlers that have the documented rights there."""
    Served.server, Served.prefix = mariadb, f"grants_{uuid.uuid4().hex[:6]}_"
    monkeypatch.setattr(simulated, "Store", Served)
    cloud = NovaSimulation(tmp_path, ["cell1"])
    cloud.start()
    names = ["nova_api", *cloud.cells]
    for name in names:
        needs = grants.merged(rights("nova_api" if name == "nova_api" else "cell"))
        mariadb.execute("".join(grants.statements(Served.prefix + name, account, needs)))
    with cloud.api.begin() as connection:
        for name in cloud.cells:
            c = tables.cell_mappings.c
            url = least(mariadb, Served.prefix + name)
            connection.execute(sa.update(tables.cell_mappings).where(c.name == name).values(database_connection=url))
    given = {group: dict(values) for group, values in cloud.options().items()}
    given["nova"]["api_database_connection"] = least(mariadb, Served.prefix + "nova_api")
    resources = Resources(loaded(tmp_path / "stackmend.conf", given))
    yield cloud, resources
    resources.close()
    cloud.stop()
    for name in names:
        mariadb.drop_database(Served.prefix + name)


def mend(handler: type[Handler], resources: Resources) -> set[str]:
    """Heal all that a sweep finds; return the problems that were healed."""
    made = handler.from_resources(resources)
    assert made.population() >= 0
    problems = set()
    for key in list(made.sweep()):
        for finding in list(made.inspect(key)):
            if finding.healable:
                assert made.heal(finding).action
                problems.add(finding.problem)
    return problems


def drift(cloud: NovaSimulation) -> None:
    """Make what each handler that writes into databases heals, every kind of write of it."""
    with cloud.ago(days=400):
        for host in ("a", "gone"):
            cloud.add_compute(host, "cell1")
            cloud.map_host(host)
        archived = cloud.boot("a")
        cloud.delete(archived)
        cloud.delete_service("gone", leak_mapping=True)
    with cloud.ago(days=2):
        unmapped, split, queued = (cloud.boot("a") for _ in range(3))
        lost = cloud.request()
        cloud.add_compute("new", "cell1")
        moving = cloud.boot("a")
        cloud.start_migration(moving, "new")
        cloud.delete(moving)
    with cloud.api.begin() as connection:
        c = MAPPINGS.c
        connection.execute(sa.delete(MAPPINGS).where(c.instance_uuid == unmapped))
        connection.execute(sa.update(MAPPINGS).where(c.instance_uuid == split).values(cell_id=None))
        connection.execute(sa.update(MAPPINGS).where(c.instance_uuid == queued).values(queued_for_delete=True))
        made = connection.scalar(sa.select(c.created_at).where(c.instance_uuid == split))
        connection.execute(sa.delete(tables.build_requests).where(tables.build_requests.c.instance_uuid == lost))
        request = {"instance_uuid": split, "project_id": "p", "instance": "{}", "created_at": made}
        connection.execute(sa.insert(tables.build_requests).values(request))
        connection.execute(sa.insert(tables.instance_group_member).values(instance_uuid=lost, group_id=1))
        connection.execute(sa.update(MAPPINGS).where(c.instance_uuid == lost).values(queued_for_delete=True))
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(
            sa.insert(tables.shadow_instances).values(uuid=lost, id=10_000, deleted=10_000, hidden=False)
        )


def test_every_heal_needs_no_more_than_is_documented(cloud: tuple[NovaSimulation, Resources]) -> None:
    simulation, resources = cloud
    drift(simulation)
    healed = {
        handler.name: mend(handler, resources)
        for handler in (
            DiscoverHosts,
            AuditServices,
            MapInstances,
            HealInstanceMappings,
            ArchiveDeletedRows,
            Purge,
            AuditStuckMigrations,
        )
    }
    assert all(healed.values()), healed
    # audit_stuck_instances writes only beside a request to nova-api, which is not here
    writing = {one.name for one in plugins.handlers() if {"nova_api", "cell"} & one.rights.keys()}
    assert set(healed) == writing - {"audit_stuck_instances"}
    mappings = simulation.host_mappings()
    assert mappings.get("new") == "cell1"
    assert "gone" not in mappings
    with simulation.api.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(MAPPINGS.c.cell_id.is_(None))) == 0
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.build_requests)) == 0
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.instance_group_member)) == 0


def test_a_host_that_came_back_keeps_its_mapping_with_the_rights_of_its_handler(
    cloud: tuple[NovaSimulation, Resources], mariadb: MariaDB, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation, resources = cloud
    mariadb.execute(f"REVOKE INSERT ON {Served.prefix}nova_api.host_mappings FROM {account}")
    with simulation.ago(days=1):
        for host in ("a", "gone"):
            simulation.add_compute(host, "cell1")
            simulation.map_host(host)
        simulation.delete_service("gone", leak_mapping=True)
    services = AuditServices.from_resources(resources)
    findings = list(services.inspect(Key("host", "gone")))
    simulation.register_host("gone", "cell1")
    monkeypatch.setattr(services, "inspect", lambda key: findings)  # it came after the proof
    with pytest.raises(Conflict, match="came back"):
        services.heal(findings[0])
    assert simulation.host_mappings()["gone"] == "cell1"


SCHEMAS = {
    "api": ([tables.api], rights("nova_api")),
    "cell": ([tables.cell], rights("cell")),
    "octavia": ([octavia_tables.octavia], rights("octavia")),
}


def make(url: str, schemas: Sequence[sa.MetaData]) -> None:
    engine = sa.create_engine(url)
    for schema in schemas:
        schema.create_all(engine)
    engine.dispose()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_missing_right_has_the_statement_that_grants_it(
    kind: str, mariadb: MariaDB, mariadb_url: str, account: str
) -> None:
    schemas, needs = SCHEMAS[kind]
    make(mariadb_url, schemas)
    schema = mariadb_url.rpartition("/")[2]
    mariadb.execute("".join(grants.statements(schema, account, grants.merged(needs))))
    database = Database(kind, least(mariadb, schema))

    def verdict() -> tuple[str, str]:
        [one] = grants.check(kind, database, needs)
        return one.verdict, one.text

    assert verdict()[0] == "ok"
    [documented] = grants.check(kind, database, [], needs)
    assert documented.verdict == "ok", "what is documented is not too much where some handlers only look"
    for table, privileges in grants.merged(needs).items():
        for privilege in privileges:
            mariadb.execute(f"REVOKE {privilege} ON {schema}.{table} FROM {account}")
            if (table, privilege) == ("*", "SELECT") and len(grants.merged(needs)) == 1 == len(privileges):
                continue
            told, text = verdict()
            assert (told, f"lacks {privilege} on {table}" in text) == ("failure", True), text
            mariadb.execute(text.partition(": ")[2])
            assert verdict()[0] == "ok"
    for more, where in (("DROP", f"{schema}.*"), ("INSERT", f"{schema}.alembic_version"), ("PROCESS", "*.*")):
        mariadb.execute(f"GRANT {more} ON {where} TO {account}")
        told, text = verdict()
        if more == "INSERT" and kind == "cell":
            assert told == "ok", "archiving may write to every table"
        else:
            assert (told, more in text) == ("warning", True), text
        mariadb.execute(f"REVOKE {more} ON {where} FROM {account}")
    database.close()


def test_a_table_that_this_release_lacks_is_in_no_statement(mariadb: MariaDB, mariadb_url: str, account: str) -> None:
    """Octavia has ``amphora_member_port`` since release 16; GRANT fails where the table is missing."""
    schema = mariadb_url.rpartition("/")[2]
    make(mariadb_url, [octavia_tables.octavia])
    mariadb.execute(f"DROP TABLE {schema}.amphora_member_port; GRANT ALL ON {schema}.* TO {account}")
    database = Database("octavia", least(mariadb, schema))
    [check] = grants.check("octavia", database, rights("octavia"))
    database.close()
    assert check.verdict == "warning"
    statements = check.text.partition("Enough is: ")[2]
    assert "amphora_health" in statements
    mariadb.execute(f"CREATE USER {grants.ACCOUNT}; {statements}")
    mariadb.execute(f"DROP USER {grants.ACCOUNT}")


@pytest.mark.parametrize("there", [True, False])
def test_the_role_grants_rights_on_the_tables_of_this_release(
    there: bool, mariadb: MariaDB, mariadb_url: str, account: str
) -> None:
    schema = mariadb_url.rpartition("/")[2]
    make(mariadb_url, [octavia_tables.octavia])
    if not there:
        mariadb.execute(f"DROP TABLE {schema}.amphora_member_port")
    # as the module template of Ansible reads them
    role = jinja2.Environment(loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True)
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    script = role.get_template("grants.sql.j2").render(
        variables,
        stackmend_database_account=account,
        stackmend_database_password="l",
        stackmend_database_mode="heal",
        stackmend_database_names={"octavia": [schema]},
    )
    mariadb.execute(script)
    database = Database("octavia", least(mariadb, schema))
    [check] = grants.check("octavia", database, rights("octavia"))
    database.close()
    assert check.verdict == "ok", check.text
    assert ("amphora_member_port" in mariadb.execute(f"SHOW GRANTS FOR {account}")) is there


def test_reading_is_enough_where_nothing_is_healed(mariadb: MariaDB, mariadb_url: str, account: str) -> None:
    make(mariadb_url, [tables.api])
    schema = mariadb_url.rpartition("/")[2]
    mariadb.execute(f"GRANT SELECT ON {schema}.* TO {account}")
    database = Database("nova_api", least(mariadb, schema))
    assert [one.verdict for one in grants.check("nova_api", database, [])] == ["ok"]
    database.close()


def test_rights_on_postgresql(postgresql: PostgreSQL, postgresql_url: str) -> None:
    make(postgresql_url, [octavia_tables.octavia])
    owner = sa.create_engine(postgresql_url)
    url = owner.url.set(username="mender", password="l")
    with owner.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE mender LOGIN PASSWORD 'l'")
    database = Database("octavia", url.render_as_string(hide_password=False))
    needs = grants.rights_of([DeactivatedAmphorae], "octavia")
    try:
        [one] = grants.check("octavia", database, needs)
        assert (one.verdict, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO mender" in one.text) == ("failure", True)
        with owner.begin() as connection:
            connection.exec_driver_sql(one.text.partition(": ")[2])
        assert [one.verdict for one in grants.check("octavia", database, needs)] == ["ok"]
        assert [one.verdict for one in grants.check("octavia", database, [])] == ["warning"]
    finally:
        database.close()
        with owner.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY mender")
            connection.exec_driver_sql("DROP ROLE mender")
        owner.dispose()
