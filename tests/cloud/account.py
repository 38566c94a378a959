"""The accounts of stackmend in a cloud: in the databases, on the brokers and in Keystone exactly what the documentation gives.

What is run is what stands in the documentation: its SQL statements, its ``rabbitmqctl`` lines, its roles. So whatever a test of
this cloud heals, it heals with the documented rights, and a right that is missing there fails that test. The services' files
are handed to stackmend without what they hold of passwords, so that it cannot fall back on theirs.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from consumer import plugins
from doc import handler_rights
from handlers.base import Mode
from tests.cloud.configuration import VHOST, Configuration
from tests.servers.server import HOST

DOCUMENTS = Path(__file__).parents[2] / "doc" / "source"
NAME, PASSWORD = "stackmend", "SECRET"
#: what the documented statements write into, and where that is: one line of the cell is for each cell
SCHEMAS = ("nova_api", "nova_cell1", "octavia")

_PERMISSIONS = re.compile(r"(\w+):\n +# rabbitmqctl set_permissions -p / stackmend '(.*)' '(.*)' '(.*)'")
_ROLE = re.compile(r"\$ openstack role add --user stackmend --user-domain default --project service (\S+)\n")
#: the groups of the services' files that stackmend reads but for URLs and credentials
_KEPT = {
    "nova": ("notifications", "oslo_messaging_notifications"),
    "octavia": (
        "oslo_messaging_notifications",
        "task_flow",
        "controller_worker",
        "haproxy_amphora",
        "compute",
        "networking",
        "health_manager",
    ),
}


def permissions(mode: str) -> tuple[str, ...]:
    """What rabbitmq.rst allows on a broker, for a ``queue_mode``: to configure, to write, to read."""
    found: dict[str, tuple[str, ...]] = {
        words[0]: words[1:] for words in _PERMISSIONS.findall((DOCUMENTS / "rabbitmq.rst").read_text())
    }
    return found[mode]


def roles() -> list[str]:
    """The roles that rights.rst gives."""
    return _ROLE.findall((DOCUMENTS / "rights.rst").read_text())


class Account:
    """One such account.

    :param mode: of the handlers; the account gets the documented rights for it
    :param name: its name
    :param absent: tables that this release does not have; their lines are left out, as the documentation asks
    """

    def __init__(
        self,
        configuration: Configuration,
        mode: Mode = Mode.HEAL,
        name: str = NAME,
        absent: AbstractSet[str] = frozenset(),
    ) -> None:
        self.name = name
        self._absent = absent
        self._configuration = configuration
        self._create, *self._grants = handler_rights.statements(plugins.handlers(), mode)
        self._project = ""

    def create(self, connection: Any, databases: Mapping[str, Sequence[str]], vhosts: Iterable[str]) -> None:
        """Make it everywhere.

        :param connection: an administrator's
        :param databases: where the documented databases are; see :meth:`allow`
        """
        self.remove()
        self._configuration.mariadb.execute(self._own(self._create))
        self.allow(databases)
        ctl = self._configuration.rabbitmq.ctl
        ctl("add_user", self.name, PASSWORD)
        for vhost in vhosts:
            ctl("set_permissions", "-p", vhost, self.name, *permissions("topic"))
        identity = connection.identity
        user = identity.create_user(name=self.name, password=PASSWORD, domain_id="default")
        project = identity.find_project("service", domain_id="default")
        self._project = project.id
        for role in roles():
            identity.assign_project_role_to_user(project, user, identity.find_role(role))

    def allow(self, databases: Mapping[str, Sequence[str]]) -> None:
        """Run the documented GRANT statements.

        :param databases: for each database of the documentation, the names of those that are meant: each cell's
        """
        lines = [
            self._own(line).replace(f" {schema}.", f" {name}.")
            for schema, names in databases.items()
            for line in self._grants
            if f" ON {schema}." in line and not any(f" ON {schema}.{table} " in line for table in self._absent)
            for name in names
        ]
        self._configuration.mariadb.execute("\n".join(lines))

    def remove(self) -> None:
        """Take it from the servers; Keystone goes with its cloud."""
        self._configuration.mariadb.execute(f"DROP USER IF EXISTS '{self.name}'@'%'")
        if f"{self.name}\t" in self._configuration.rabbitmq.ctl("list_users"):
            self._configuration.rabbitmq.ctl("delete_user", self.name)

    def url(self, database: str, port: int | None = None) -> str:
        """The address of a database for this account.

        :param port: of something between, if not the server's
        """
        return f"mysql+pymysql://{self.name}:{PASSWORD}@{HOST}:{port or self._configuration.mariadb.port}/{database}"

    def options(self, *, octavia: bool = False) -> dict[str, dict[str, object]]:
        """The configuration of stackmend that uses it, all that it has to know of the cloud.

        :param octavia: whether it speaks of load balancers, too
        """
        bus = f"rabbit://{self.name}:{PASSWORD}@{HOST}:{self._configuration.rabbitmq.port}/{VHOST}"
        found: dict[str, dict[str, object]] = {
            "nova": {
                "config_file": self._copied("nova", self._configuration.nova),
                "api_database_connection": self.url("nova_api"),
                "database_connection": self.url("nova_cell0"),
                "transport_url": bus,
            },
            "openstack": {
                "auth_type": "password",
                "auth_url": self._configuration.auth_url,
                "username": self.name,
                "password": PASSWORD,
                "user_domain_name": "Default",
                "project_name": "service",
                "project_domain_name": "Default",
                "region_name": "RegionOne",
            },
        }
        if octavia:
            found["octavia"] = {
                "config_file": self._copied("octavia", self._configuration.octavia),
                "database_connection": self.url("octavia"),
                "transport_url": bus,
                "project_id": self._project,
            }
        return found

    def _own(self, statement: str) -> str:
        return statement.replace(f"'{NAME}'@", f"'{self.name}'@")

    def _copied(self, service: str, file: Path) -> Path:
        """Write the values of a service's file that are no secrets."""
        theirs = configparser.RawConfigParser(default_section="")
        theirs.read(file)
        ours = configparser.RawConfigParser(default_section="")
        for group in filter(theirs.has_section, _KEPT[service]):
            ours[group] = {name: value for name, value in theirs[group].items() if not name.endswith("_key")}
        folder = self._configuration.folder / "etc" / self.name
        folder.mkdir(exist_ok=True)
        copy = folder / f"{service}.conf"
        with copy.open("w") as written:
            ours.write(written)
        return copy
