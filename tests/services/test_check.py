"""A deployment with one fault at a time: ``stackmend check`` finds it and gives the line to write."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import sqlalchemy as sa
from kombu.connection import Connection
from kombu.entity import Queue
from sqlalchemy.engine import make_url

from consumer import plugins
from handlers.checks.grants import merged, rights_of, statements
from handlers.nova import tables
from handlers.nova.simulation.cinder import Cinder
from handlers.nova.simulation.placement import PlacementServer
from handlers.octavia import tables as octavia
from tests.keystone import Keystone
from tests.program import Program
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ
from tests.services.virtual_host import Bus
from tests.waiting import eventually

#: heads of the migrations of Nova 34 and Octavia 19
HEADS = ("cdeec0c85668", "2903cd72dc14")

OCTAVIA_HEAD = "fabf4983846b"

MENDER = "'mender'@'%'"

Files = dict[str, dict[str, object]]


@dataclass
class Deployment:
    """The files of a deployment in which all is well, to be spoiled.

    :param bus: the broker, where publishers have made their queues
    :param keystone: where stackmend is somebody with the roles that it needs
    :param databases: their names
    :param at_the_end: what is to be closed after the test
    :param mode: of stackmend's own file
    :param options: of stackmend
    :param nova: of nova.conf
    :param octavia: of octavia.conf
    """

    folder: Path
    bus: Bus
    mariadb: MariaDB
    keystone: Keystone
    databases: dict[str, str]
    options: Files
    nova: Files
    octavia: Files
    at_the_end: ExitStack
    mode: int = 0o600

    def write(self) -> None:
        """Write the services' files."""
        for name, sections in (("nova", self.nova), ("octavia", self.octavia)):
            text = "\n".join(
                f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
                for group, values in sections.items()
            )
            (self.folder / f"{name}.conf").write_text(text)

    def check(self) -> tuple[int, dict[str, tuple[str, str]]]:
        """Run it; return the exit code and, by subject, verdict and text."""
        self.write()
        with Program(self.folder / "stackmend", self.options) as program:
            program.conf.chmod(self.mode)
            return checked(program)


def checked(program: Program) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run the check of an installation; return the exit code and, by subject, verdict and text."""
    done = program.run("check", "-f", "json")
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = json.loads(done.stdout)
    return done.returncode, {line["check"]: (line["result"], line["details"]) for line in lines}


@pytest.fixture(scope="module")
def placement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacementServer]:
    server = PlacementServer(tmp_path_factory.mktemp("placement"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def broker(rabbitmq: RabbitMQ) -> Iterator[Bus]:
    """A virtual host with the queues of our topic, and users who may do more or less than they should."""
    rabbitmq.start()
    vhost = f"check-{uuid.uuid4().hex[:8]}"
    rabbitmq.add_vhost(vhost)
    made = Bus(rabbitmq, rabbitmq.url(vhost), vhost)
    made.declare("stackmend.info", "stackmend.error")
    rights = {"reader": ("^$", "^$", "^(stackmend)[.]"), "stranger": ("^$", "^$", "^$")}
    for user, patterns in rights.items():
        rabbitmq.ctl("add_user", user, "r")
        rabbitmq.ctl("set_permissions", "-p", vhost, user, *patterns)
    yield made
    rabbitmq.delete_vhost(vhost)
    for user in rights:
        rabbitmq.ctl("delete_user", user)


def as_user(url: str, user: str, word: str) -> str:
    return make_url(url).set(username=user, password=word).render_as_string(hide_password=False)


def fill(url: str, heads: Sequence[str], *schemas: sa.MetaData) -> None:
    """Make tables of these schemas, at these revisions."""
    engine = sa.create_engine(url)
    for schema in schemas:
        schema.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.api_version), [{"version_num": head} for head in heads])
    engine.dispose()


@pytest.fixture(scope="module")
def databases(mariadb: MariaDB) -> Iterator[dict[str, str]]:
    """``nova_api`` and a cell, with the account that rights.rst describes for everything that heals."""
    mariadb.start()
    names = {kind: f"{kind}_{uuid.uuid4().hex[:8]}" for kind in ("api", "cell", "journal")}
    for name in names.values():
        mariadb.create_database(name)
    fill(mariadb.url(names["api"]), HEADS[:1], tables.api)
    fill(mariadb.url(names["cell"]), HEADS[1:], tables.cell)
    url = as_user(mariadb.url(names["cell"]), "mender", "m")
    engine = sa.create_engine(mariadb.url(names["api"]))
    with engine.begin() as connection:
        row = {"uuid": str(uuid.uuid4()), "name": "cell1", "database_connection": url, "transport_url": "none:///"}
        connection.execute(sa.insert(tables.cell_mappings).values(id=1, disabled=False, **row))
    engine.dispose()
    mariadb.execute("CREATE OR REPLACE USER 'mender'@'%' IDENTIFIED BY 'm'")
    for kind, database in (("api", "nova_api"), ("cell", "cell")):
        mariadb.execute("".join(statements(names[kind], MENDER, merged(rights_of(plugins.handlers(), database)))))
    yield names
    for name in names.values():
        mariadb.drop_database(name)
    mariadb.execute("DROP USER 'mender'@'%'")


@pytest.fixture
def at_the_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def deployment(
    tmp_path: Path,
    placement: PlacementServer,
    broker: Bus,
    mariadb: MariaDB,
    databases: dict[str, str],
    at_the_end: ExitStack,
) -> Deployment:
    """A deployment in which all is well, whatever the test before has done."""
    balancers = f"sqlite:///{tmp_path}/octavia.sqlite"
    fill(balancers, [OCTAVIA_HEAD], octavia.octavia)
    url = as_user(broker.url, "reader", "r").replace("amqp://", "rabbit://")
    keystone = at_the_end.enter_context(Keystone(placement.TOKEN, ["admin", "service", "reader"]))
    cinder = at_the_end.enter_context(closing(Cinder(lambda *_: False)))
    told: dict[str, object] = {"driver": "messagingv2", "topics": "notifications,stackmend", "transport_url": url}
    handlers = [handler for handler in plugins.handlers() if handler.group == "audit"]
    return Deployment(
        tmp_path,
        broker,
        mariadb,
        keystone,
        databases,
        {
            "openstack": {
                "auth_type": "v3password",
                "auth_url": keystone.url,
                "username": "mender",
                "password": "m",
                "user_domain_name": "Default",
                "project_name": "service",
                "project_domain_name": "Default",
                "placement_endpoint_override": placement.url,
                "block_storage_endpoint_override": cinder.url,
            },
            "nova": {"config_file": tmp_path / "nova.conf"},
            "octavia": {"config_file": tmp_path / "octavia.conf"},
            "housekeeping": {"driver": "noop"},
            "audit": {f"{handler.name}_mode": "heal" for handler in handlers},
        },
        {
            "api_database": {"connection": as_user(mariadb.url(databases["api"]), "mender", "m")},
            "notifications": {
                "notification_format": "versioned",
                "versioned_notifications_topics": "versioned_notifications,stackmend",
            },
            "oslo_messaging_notifications": told,
        },
        {
            "database": {"connection": balancers},
            "oslo_messaging_notifications": told,
            "health_manager": {"heartbeat_timeout": "60"},
        },
        at_the_end,
    )


def test_all_is_well(deployment: Deployment) -> None:
    code, found = deployment.check()
    unwell = {subject for subject, (verdict, _text) in found.items() if verdict != "ok"}
    assert unwell == set()
    assert code == 0
    assert {"nova_api: rights", "cell:cell1: rights", "nova: roles", "clock", "placement: clock"} <= set(found)
    assert {f"broker nova,octavia: exchange {name}" for name in ("nova", "octavia")} <= set(found)


def everybody_reads(deployment: Deployment) -> None:
    deployment.mode = 0o644


def journal_is_empty(deployment: Deployment) -> None:
    deployment.options["journal"] = {"connection": deployment.mariadb.url(deployment.databases["journal"])}


def broker_knows_another_password(deployment: Deployment) -> None:
    for file in (deployment.nova, deployment.octavia):
        telling = file["oslo_messaging_notifications"]
        telling["transport_url"] = str(telling["transport_url"]).replace("reader:r@", "reader:wrong@")


def broker_lets_not_read(deployment: Deployment) -> None:
    telling = deployment.nova["oslo_messaging_notifications"]
    telling["transport_url"] = str(telling["transport_url"]).replace("reader:", "stranger:")


def somebody_else_reads(deployment: Deployment) -> None:
    connection = deployment.at_the_end.enter_context(Connection(deployment.bus.url))
    consumer = connection.Consumer([Queue("stackmend.info", no_declare=True, channel=connection)])
    deployment.at_the_end.enter_context(consumer)


def topic_is_another(deployment: Deployment) -> None:
    deployment.options["bus"] = {"topics": "mending"}


def nothing_is_told(deployment: Deployment) -> None:
    del deployment.nova["oslo_messaging_notifications"]["driver"]


def only_others_are_told(deployment: Deployment) -> None:
    del deployment.nova["notifications"]["versioned_notifications_topics"]


def format_is_old(deployment: Deployment) -> None:
    del deployment.nova["notifications"]["notification_format"]


def balancers_are_not_told_of(deployment: Deployment) -> None:
    deployment.octavia["controller_worker"] = {"event_notifications": "False"}


def placement_is_elsewhere(deployment: Deployment) -> None:
    deployment.options["openstack"]["placement_endpoint_override"] = "http://127.0.0.1:1"


def placement_knows_another_token(deployment: Deployment) -> None:
    deployment.keystone.token = "wrong"


def keystone_is_elsewhere(deployment: Deployment) -> None:
    deployment.options["openstack"]["auth_url"] = "http://127.0.0.1:1/v3"


def a_member_and_no_more(deployment: Deployment) -> None:
    deployment.keystone.roles = ["member"]


def an_administrator_without_service(deployment: Deployment) -> None:
    deployment.keystone.roles.remove("service")


def the_journal_is_an_hour_ahead(deployment: Deployment) -> None:
    """What the database calls NOW(), for accounts that may not do everything."""
    mariadb, journal = deployment.mariadb, deployment.databases["journal"]
    mariadb.execute(f"GRANT ALL ON {journal}.* TO {MENDER}")
    deployment.options["journal"] = {"connection": as_user(mariadb.url(journal), "mender", "m")}
    with Program(deployment.folder / "stackmend", deployment.options) as program:
        upgraded = program.run("db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    deployment.at_the_end.callback(mariadb.execute, "SET GLOBAL init_connect = ''")
    mariadb.execute("SET GLOBAL init_connect = 'SET @@timestamp = UNIX_TIMESTAMP() + 3600'")


def placement_is_an_hour_behind(deployment: Deployment) -> None:
    told = BaseHTTPRequestHandler.date_time_string

    def late(self: BaseHTTPRequestHandler, timestamp: float | None = None) -> str:
        return told(self, (datetime.now(UTC).timestamp() if timestamp is None else timestamp) - 3600)

    patch = deployment.at_the_end.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(BaseHTTPRequestHandler, "date_time_string", late)


def databases_are_mixed_up(deployment: Deployment) -> None:
    deployment.nova["api_database"]["connection"] = as_user(
        deployment.mariadb.url(deployment.databases["cell"]), "mender", "m"
    )


def amphorae_are_deleted_too_soon(deployment: Deployment) -> None:
    deployment.octavia["health_manager"]["heartbeat_timeout"] = "5"
    deployment.options["housekeeping"]["maximum_preserved_amphora_count"] = 1


def nova_does_as_it_likes(deployment: Deployment) -> None:
    deployment.nova["api_database"]["connection"] = deployment.mariadb.url(deployment.databases["api"])


@pytest.mark.parametrize(
    ("plant", "subject", "verdict", "cure"),
    [
        (everybody_reads, "configuration", "warning", "chmod o-r "),
        (journal_is_empty, "journal", "failure", "stackmend db upgrade"),
        (broker_knows_another_password, "broker nova,octavia", "failure", "Check the transport URL, its user"),
        (somebody_else_reads, "broker nova,octavia: queue stackmend.info", "warning", "rabbitmqctl list_consumers"),
        (
            broker_lets_not_read,
            "broker nova,octavia: queue stackmend.info",
            "failure",
            "rabbitmqctl set_permissions -p check-",
        ),
        (topic_is_another, "broker nova,octavia: queue mending.info", "warning", "= versioned_notifications,mending"),
        (nothing_is_told, "nova.conf: notifications", "warning", "[oslo_messaging_notifications] driver = messagingv2"),
        (
            only_others_are_told,
            "nova.conf: notifications",
            "warning",
            "[notifications] versioned_notifications_topics = versioned_notifications,stackmend",
        ),
        (format_is_old, "nova.conf: format", "warning", "[notifications] notification_format = versioned"),
        (
            balancers_are_not_told_of,
            "octavia.conf: events",
            "warning",
            "[controller_worker] event_notifications = True",
        ),
        (placement_is_elsewhere, "placement", "failure", "[openstack] placement_endpoint_override"),
        (placement_knows_another_token, "placement", "failure", "[openstack]"),
        (keystone_is_elsewhere, "nova: roles", "failure", "[openstack] auth_type, username, password and project_name"),
        (
            a_member_and_no_more,
            "nova: roles",
            "failure",
            "openstack role add --user mender --user-domain Default --project service --project-domain Default admin",
        ),
        (
            an_administrator_without_service,
            "nova: roles",
            "warning",
            "openstack role add --user mender --user-domain Default --project service --project-domain Default service",
        ),
        (
            the_journal_is_an_hour_ahead,
            "clock",
            "warning",
            "s behind the journal's database, which falsifies lags: synchronise both with chrony",
        ),
        (
            placement_is_an_hour_behind,
            "placement: clock",
            "warning",
            "s ahead of it, and ages of objects in APIs are wrong by as much: let chrony or ntpd",
        ),
        (databases_are_mixed_up, "nova_api", "failure", "is its URL that of another database"),
        (
            amphorae_are_deleted_too_soon,
            "octavia.conf: heartbeats",
            "warning",
            "[health_manager] heartbeat_timeout = 50",
        ),
        (nova_does_as_it_likes, "nova_api: rights", "warning", "GRANT SELECT ON "),
    ],
)
def test_what_is_wrong_is_found_and_its_cure_named(
    deployment: Deployment, plant: Callable[[Deployment], None], subject: str, verdict: str, cure: str
) -> None:
    plant(deployment)
    code, found = deployment.check()
    lines = {name.rpartition("/")[2]: line for name, line in found.items()}
    assert lines[subject][0] == verdict, lines
    assert cure in lines[subject][1]
    assert code == {"warning": 1, "failure": 2}[verdict]


def legacy(event: str) -> bytes:
    """A notification in Nova's old format, as it stands on the bus."""
    inner = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "compute.compute-1",
        "event_type": event,
        "priority": "INFO",
        "payload": {"instance_id": str(uuid.uuid4()), "host": "compute-1", "state": "deleted"},
        "timestamp": "2026-01-01 00:00:00.000000",
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


def versioned(event: str) -> bytes:
    """The same in the new one."""
    body = json.loads(json.loads(legacy(f"compute.{event}"))["oslo.message"])
    data = {"uuid": str(uuid.uuid4()), "host": "compute-1"}
    payload = {"nova_object.name": "InstanceActionPayload", "nova_object.version": "1.8", "nova_object.data": data}
    body |= {"event_type": event, "payload": payload}
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(body)}).encode()


def test_without_nova_s_file_arrived_notifications_show_the_format(deployment: Deployment) -> None:
    """The check learns the format from the notifications that the daemon received."""
    deployment.write()
    telling = deployment.nova["oslo_messaging_notifications"]
    deployment.options["nova"] = {
        "api_database_connection": deployment.nova["api_database"]["connection"],
        "transport_url": telling["transport_url"],
    }
    subject = "broker nova,octavia: notifications"
    with Program(deployment.folder / "stackmend", deployment.options) as program:
        assert "none that a handler wants has arrived yet" in checked(program)[1][subject][1]
        program.start("--audit")

        def told(word: str) -> bool:
            return word in checked(program)[1][subject][1]

        deployment.bus.publish([legacy("compute.instance.delete.end")])
        eventually(lambda: told("only unversioned"), 180, f"the old format; see {program.log}")
        code, found = checked(program)
        assert (code, found[subject][0]) == (1, "warning")
        assert "[notifications] notification_format = versioned" in found[subject][1]
        deployment.bus.publish([versioned("instance.delete.end")])
        eventually(lambda: told("unversioned and versioned, the last one"), 180, f"the new format; see {program.log}")
        assert checked(program)[1][subject][0] == "ok"
        program.stop()


def test_a_schema_of_tomorrow_and_a_cell_that_is_closed(deployment: Deployment) -> None:
    engine = sa.create_engine(deployment.mariadb.url(deployment.databases["api"]))
    c = tables.cell_mappings.c
    with engine.begin() as connection:
        url = connection.scalar(sa.select(c.database_connection))
        wrong = sa.update(tables.cell_mappings).values(
            database_connection=str(url).replace("mender:m@", "mender:other@")
        )
        connection.execute(wrong)
        connection.execute(sa.update(tables.api_version).values(version_num="feedfeedfeed"))
    try:
        code, found = deployment.check()
    finally:
        with engine.begin() as connection:
            connection.execute(sa.update(tables.cell_mappings).values(database_connection=url))
            connection.execute(sa.update(tables.api_version).values(version_num=HEADS[0]))
        engine.dispose()
    assert code == 2
    assert found["nova_api"][0] == "warning"
    assert "feedfeedfeed" in found["nova_api"][1]
    assert found["cell:cell1"][0] == "failure"
    assert "Access denied" in found["cell:cell1"][1]
    assert "other" not in found["cell:cell1"][1]
