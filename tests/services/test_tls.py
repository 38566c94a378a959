"""Broker, databases and API speak TLS only, with certificates of a private authority."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from consumer.bus import probe
from consumer.conf import bus as bus_conf
from handlers.base import Resources, Unavailable
from handlers.nova import tables
from handlers.nova.cells import CELL0
from handlers.nova.simulation import NovaSimulation
from handlers.octavia import options as octavia_options
from handlers.octavia.work_queue import QUEUE, WorkQueue
from tests.faults import FaultyProxy
from tests.program import Options, Program, only
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import HOST, PASSWORD, Certificate, Server
from tests.servers.tls import Authority
from tests.services.test_check import HEADS, fill
from tests.services.virtual_host import Bus
from tests.waiting import eventually

#: how the files of an authority are given to a driver, in the query of a URL
QUERY = {"mariadb": "ssl_ca={}", "postgresql": "sslmode=verify-full&sslrootcert={}"}
#: a URL that has the certificate checked, and names no authority
NO_AUTHORITY = {"mariadb": "charset=utf8&ssl_verify_cert=true", "postgresql": "sslmode=verify-full"}
#: what nova.conf has in clouds that others deploy, around ``ssl_ca``
AS_DEPLOYED = ("ssl_ca={}", "charset=utf8&ssl_verify_cert=true&ssl_ca={}", "charset=utf8&plugin=dbcounter&ssl_ca={}")


@pytest.fixture(scope="module")
def authority(servers_folder: Path) -> Authority:
    return Authority(servers_folder / "tls", "ours")


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.certify()


@pytest.fixture(scope="module")
def stranger(servers_folder: Path) -> Path:
    """Another authority's file."""
    return Authority(servers_folder / "tls", "stranger").file


def served(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def secured_rabbitmq(servers_folder: Path, certificate: Certificate) -> Iterator[Server]:
    yield from served(RabbitMQ(servers_folder / "rabbitmq-tls", certificate))


@pytest.fixture(scope="module")
def secured_mariadb(servers_folder: Path, certificate: Certificate) -> Iterator[Server]:
    yield from served(MariaDB(servers_folder / "mariadb-tls", certificate))


@pytest.fixture(scope="module")
def secured_postgresql(servers_folder: Path, certificate: Certificate) -> Iterator[Server]:
    yield from served(PostgreSQL(servers_folder / "postgresql-tls", certificate))


@pytest.fixture
def secured(secured_rabbitmq: RabbitMQ, certificate: Certificate) -> Bus:
    """The broker, with the queues of our topic."""
    bus = Bus(secured_rabbitmq, secured_rabbitmq.url(), "/", certificate.authority)
    bus.declare("stackmend.info", "stackmend.error")
    return bus


@pytest.fixture
def api(cloud: NovaSimulation, certificate: Certificate) -> Iterator[str]:
    """Placement's address behind TLS."""
    proxy = FaultyProxy(cloud.placement.url, certificate)
    yield proxy.url
    proxy.close()


@pytest.fixture(params=QUERY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database, whose query is missing."""
    server = request.getfixturevalue(f"secured_{kind}")
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def nova_conf(tmp_path: Path) -> Callable[[Options], Path]:
    """Return what writes nova.conf."""

    def write(options: Options) -> Path:
        return Program(tmp_path / "nova", options).conf

    return write


def nova_api(url: str) -> None:
    """Make a Nova of one cell in one database, with a host that is in no cell."""
    fill(url, HEADS, tables.api, tables.cell)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for number, (identity, name) in enumerate(((CELL0, "cell0"), (str(uuid.uuid4()), "cell1")), start=1):
            row = {"id": number, "uuid": identity, "name": name, "database_connection": url}
            connection.execute(sa.insert(tables.cell_mappings).values(disabled=False, transport_url="none:///", **row))
        service = {"host": "compute-1", "binary": "nova-compute", "topic": "compute", "uuid": str(uuid.uuid4())}
        connection.execute(sa.insert(tables.services).values(id=1, deleted=0, disabled=False, version=61, **service))
    engine.dispose()


def placement(url: str, **more: object) -> dict[str, object]:
    return {"auth_type": "admin_token", "endpoint": url, "token": "admin", "endpoint_override": url, **more}


def refusal(program: Program, *command: str) -> str:
    """Run a command that must fail; return its output, which has no password and no traceback."""
    done = program.run(*command)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert PASSWORD not in said
    assert "Traceback" not in said
    return said


def test_an_event_is_healed_with_the_options_of_nova_conf(
    cloud: NovaSimulation,
    secured: Bus,
    api: str,
    authority: Authority,
    options: dict[str, dict[str, object]],
    nova_conf: Callable[[Options], Path],
    tmp_path: Path,
) -> None:
    transport_url = secured.url.replace("amqp://", "rabbit://")
    file = nova_conf(
        {
            "DEFAULT": {"transport_url": transport_url},
            "oslo_messaging_rabbit": {"ssl": True, "ssl_ca_file": authority.file},
            "placement": placement(api, cafile=authority.file),
        }
    )
    del options["openstack"], options["nova"]["transport_url"]
    options["nova"]["config_file"] = file
    instance = cloud.boot("compute-1")
    cloud.take()
    with Program(tmp_path / "stackmend", options) as program:
        program.start()
        cloud.delete(instance, leak_allocation=True)
        secured.send(cloud.take())
        eventually(lambda: not cloud.allocation(instance), 120, f"the allocation; see {program.log}")
        checks = {line["check"]: line for line in program.json("check")}
        program.stop()
    assert checks["broker nova"]["result"] == "ok"


@pytest.mark.parametrize(
    ("nova", "ours", "named"),
    [
        ({}, {}, "set [oslo_messaging_rabbit] ssl = true"),
        ({"ssl": True}, {}, "ssl_ca_file is not set"),
        ({"ssl": True, "ssl_ca_file": "{stranger}"}, {}, "ssl_ca_file = {stranger}"),
        ({"ssl": True, "ssl_ca_file": "{authority}"}, {"ssl_ca_file": "{stranger}"}, "ssl_ca_file = {stranger}"),
        ({"ssl": True, "ssl_ca_file": "/no/such.pem"}, {}, "ssl_ca_file = /no/such.pem"),
    ],
    ids=["no TLS", "no authority", "another authority", "our own option wins", "no such file"],
)
def test_a_broker_that_cannot_be_trusted(
    nova: dict[str, object],
    ours: dict[str, object],
    named: str,
    secured: Bus,
    authority: Authority,
    stranger: Path,
    nova_conf: Callable[[Options], Path],
    tmp_path: Path,
) -> None:
    def filled(value: object) -> str:
        return str(value).format(authority=authority.file, stranger=stranger)

    file = nova_conf(
        {
            "DEFAULT": {"transport_url": secured.url.replace("amqp://", "rabbit://")},
            "oslo_messaging_rabbit": {name: filled(value) for name, value in nova.items()},
        }
    )
    options: Options = {
        "nova": {"config_file": file},
        "audit": only(),
        "oslo_messaging_rabbit": {name: filled(value) for name, value in ours.items()},
    }
    with Program(tmp_path / "stackmend", options) as program:
        found = {line["check"]: line for line in program.json("check")}
        done = program.run("check")
    assert found["broker nova"]["result"] == "failure"
    assert filled(named) in found["broker nova"]["details"]
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("query", AS_DEPLOYED)
def test_hosts_are_mapped_in_a_mariadb_as_clouds_have_it(
    query: str, secured_mariadb: MariaDB, authority: Authority, nova_conf: Callable[[Options], Path], tmp_path: Path
) -> None:
    secured_mariadb.create_database("nova")
    try:
        connection = f"{secured_mariadb.url('nova')}?{query.format(authority.file)}"
        make = f"{secured_mariadb.url('nova')}?ssl_ca={authority.file}"
        nova_api(make)
        file = nova_conf({"api_database": {"connection": connection}, "database": {"connection": connection}})
        with Program(tmp_path / "stackmend", {"nova": {"config_file": file}}) as program:
            done = program.run("sweep", "discover_hosts")
        assert done.returncode == 0, done.stdout + done.stderr
        assert secured_mariadb.execute("SELECT host FROM host_mappings", "nova").split() == ["compute-1"]
    finally:
        secured_mariadb.drop_database("nova")


def test_hosts_are_mapped_in_a_postgresql(
    secured_postgresql: PostgreSQL, authority: Authority, nova_conf: Callable[[Options], Path], tmp_path: Path
) -> None:
    secured_postgresql.create_database("nova")
    try:
        connection = f"{secured_postgresql.url('nova')}?{QUERY['postgresql'].format(authority.file)}"
        nova_api(connection)
        # Nova's own driver in the URL: what it says of TLS is the same for psycopg 3.
        foreign = connection.replace("postgresql+psycopg:", "postgresql:")
        file = nova_conf({"api_database": {"connection": foreign}, "database": {"connection": foreign}})
        with Program(tmp_path / "stackmend", {"nova": {"config_file": file}}) as program:
            done = program.run("sweep", "discover_hosts")
        assert done.returncode == 0, done.stdout + done.stderr
        assert secured_postgresql.execute("SELECT host FROM host_mappings", "nova").split() == ["compute-1"]
    finally:
        secured_postgresql.drop_database("nova")


@pytest.mark.parametrize("given", ["none", "a stranger's", "a missing one"])
def test_a_database_that_cannot_be_trusted(
    given: str, kind: str, database: str, stranger: Path, nova_conf: Callable[[Options], Path], tmp_path: Path
) -> None:
    file = {"a stranger's": str(stranger), "a missing one": "/no/such.pem"}.get(given)
    query = NO_AUTHORITY[kind] if file is None else QUERY[kind].format(file)
    nova = nova_conf({"api_database": {"connection": f"{database}?{query}"}})
    options: Options = {"nova": {"config_file": nova}, "journal": {"connection": f"{database}?{query}"}}
    with Program(tmp_path / "stackmend", options) as program:
        said = refusal(program, "inspect", "discover_hosts", "host:compute-1", "-f", "json")
        of_journal = refusal(program, "work", "list")
        checked = program.run("check")
    option = QUERY[kind].partition("=")[0] if kind == "mariadb" else "sslrootcert"
    assert "nova_api" in said
    assert option in said
    assert file is None or f"{option} = {file}" in said
    assert len(of_journal.splitlines()) == 1
    assert "[journal] connection" in of_journal
    assert PASSWORD not in checked.stdout + checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_certificate_for_another_host_is_refused(
    database: str, kind: str, authority: Authority, tmp_path: Path
) -> None:
    url = f"{database.replace(HOST, 'localhost')}?{QUERY[kind].format(authority.file)}"
    with Program(tmp_path / "stackmend", {"journal": {"connection": url}}) as program:
        said = refusal(program, "db", "upgrade")
    assert "localhost" in said


def test_a_journal_with_tls(database: str, kind: str, authority: Authority, tmp_path: Path) -> None:
    url = f"{database}?{QUERY[kind].format(authority.file)}"
    with Program(tmp_path / "stackmend", {"journal": {"connection": url}}) as program:
        upgraded = program.run("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        assert program.json("work", "list") == []


@pytest.mark.parametrize("given", ["none", "a stranger's", "a missing one"])
@pytest.mark.parametrize("place", ["nova.conf", "ours"])
def test_an_api_that_cannot_be_trusted(
    given: str,
    place: str,
    cloud: NovaSimulation,
    api: str,
    authority: Authority,
    stranger: Path,
    nova_conf: Callable[[Options], Path],
    tmp_path: Path,
) -> None:
    files: dict[str, object] = {"a stranger's": stranger, "a missing one": "/no/such.pem"}
    more = {"cafile": files[given]} if given in files else {}
    nova: dict[str, dict[str, object]] = {
        "api_database": {"connection": cloud.options()["nova"]["api_database_connection"]}
    }
    options: dict[str, dict[str, object]] = {"nova": {"database_connection": "sqlite://"}}
    if place == "nova.conf":
        nova["placement"] = placement(api, **more)
    else:
        # What nova.conf says would do, but ours is asked first.
        nova["placement"] = placement(api, **({"cafile": authority.file} if more else {}))
        options["openstack"] = more
    options["nova"]["config_file"] = file = nova_conf(nova)
    with Program(tmp_path / "stackmend", options) as program:
        said = refusal(program, "inspect", "audit_allocations", f"consumer:{uuid.uuid4()}", "-f", "json")
    ours = place == "ours" and given != "none"
    assert ("[openstack] cafile" if ours else f"[placement] cafile of {file}") in said
    assert given != "a missing one" or "/no/such.pem" in said


@pytest.mark.parametrize("ours", [False, True], ids=["octavia.conf", "stackmend.conf"])
def test_octavias_work_queue_is_reached_with_the_tls_options_of(
    secured_rabbitmq: RabbitMQ, certificate: Certificate, tmp_path: Path, ours: bool
) -> None:
    """Octavia's file names its container's path of the authority; then stackmend's own file goes before."""
    inside = "/etc/ssl/of/the/container.pem"
    octavia, own = tmp_path / "octavia.conf", tmp_path / "stackmend.conf"
    octavia.write_text(
        f"[DEFAULT]\ntransport_url = {secured_rabbitmq.transport_url('/')}\n[task_flow]\njobboard_enabled = False\n"
        "[haproxy_amphora]\nconnection_max_retries = 9\n"
        f"[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = {inside if ours else certificate.authority}\n"
    )
    given = f"[oslo_messaging_rabbit]\nssl_ca_file = {certificate.authority}\n" if ours else ""
    own.write_text(f"[octavia]\nconfig_file = {octavia}\n{given}")
    conf = cfg.ConfigOpts()
    bus_conf.register(conf)
    octavia_options.register(conf)
    conf(["--config-file", str(own)], project="stackmend")

    queue = WorkQueue.from_resources(Resources(conf, probe.bus(conf)))

    with pytest.raises(Unavailable, match=f"the queue {QUEUE} cannot be asked"):
        queue.prove_idle(0)
