"""An operator who runs the commands and statements of our texts on the simulated cloud, as the real programs do.

Sources: ``osc_placement/resources/`` 4.9.1; ``nova/cmd/manage.py``, ``nova/compute/api.py`` (_delete) and
``nova/api/openstack/compute/services.py`` (delete) of Nova 34.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from handlers.nova import tables
from tests.functional.nova.commands.syntax import Command, read
from tests.functional.nova.proofs.stage import Stage

_STATEMENT = re.compile(r"(?:SELECT|INSERT INTO|UPDATE|DELETE FROM) ")
_API, _CELL = "-- in nova_api", "-- in the database of "


class CommandFailed(AssertionError):
    """The program refuses the command."""


class Operator:
    """Runs commands; each returns its output."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._cloud = stage.cloud
        #: devices that Cyborg has released
        self.released: list[str] = []

    def follow(self, text: str) -> list[str]:
        """Run every line of an undo, in order."""
        return [output for database, line in _lines(text) for output in self._line(database, line)]

    def run(self, command: Command) -> str:
        """Run a command.

        :raises CommandFailed: when a real cloud would refuse the command
        """
        assert not command.missing, command
        return _RUN[command.name](self, command)

    def execute(self, statements: str, database: str = "nova_api") -> list[str]:
        """Run SQL statements, each up to its semicolon; return the rows of each."""
        printed, statement = [], ""
        with closing(sqlite3.connect(self._stage.file(database), timeout=30)) as connection, connection:
            for part in re.split(r"(?<=;)", statements):
                statement += part
                if statement.strip() and (sqlite3.complete_statement(statement) or part is statements):
                    printed.append(str(connection.execute(statement).fetchall()))
                    statement = ""
        return printed

    def _line(self, database: str, line: str) -> Iterator[str]:
        if _STATEMENT.match(line):
            yield from self.execute(line, database)
        else:
            for part in line.split("; "):
                yield self.run(read(part))

    # Placement

    def _ask(self, command: Command, method: str, path: str, body: Any = None) -> Mapping[str, Any]:
        """Send a request with the microversion of the command; 1.0 is the default of osc-placement."""
        version = command.options.get("--os-placement-api-version", ("1.0",))[0]
        reply = self._cloud.placement.request(method, path, body, version)
        if reply.status >= 400:
            raise CommandFailed(f"{command}: {reply}")
        return reply.body

    def provider_set(self, command: Command) -> str:
        [provider] = command.arguments
        self._ask(command, "PUT", f"/resource_providers/{provider}", {"name": command.option("--name")})
        return ""

    def provider_create(self, command: Command) -> str:
        [name] = command.arguments
        self._ask(command, "POST", "/resource_providers", {"name": name, "uuid": command.option("--uuid")})
        return ""

    def provider_delete(self, command: Command) -> str:
        self._ask(command, "DELETE", f"/resource_providers/{command.arguments[0]}")
        return ""

    def provider_show(self, command: Command) -> str:
        path = f"/resource_providers/{command.arguments[0]}"
        more = "/allocations" if "--allocations" in command.options else ""
        return json.dumps(self._ask(command, "GET", path + more))

    def aggregate_set(self, command: Command) -> str:
        path = f"/resource_providers/{command.arguments[0]}/aggregates"
        self._ask(command, "PUT", path, list(command.options.get("--aggregate", ())))
        return ""

    def inventory_set(self, command: Command) -> str:
        """Change columns of inventories. With ``--amend``, the client reads all inventories first and keeps the others."""
        path = f"/resource_providers/{command.arguments[0]}/inventories"
        body = dict(self._ask(command, "GET", path))
        inventories = {name: dict(columns) for name, columns in body["inventories"].items()}
        if "--amend" not in command.options:
            inventories = {}
        for text in command.options["--resource"]:
            name, _, column = text.rpartition("=")[0].rpartition(":")
            inventories.setdefault(name, {})[column] = int(text.rpartition("=")[2])
        self._ask(command, "PUT", path, {**body, "inventories": inventories})
        return ""

    def allocation_delete(self, command: Command) -> str:
        self._ask(command, "DELETE", f"/allocations/{command.arguments[0]}")
        return ""

    def allocation_show(self, command: Command) -> str:
        return json.dumps(self._ask(command, "GET", f"/allocations/{command.arguments[0]}")["allocations"])

    def provider_list(self, command: Command) -> str:
        return json.dumps(self._ask(command, "GET", "/resource_providers"))

    def allocation_set(self, command: Command) -> str:
        """Replace an allocation. From 1.28 on, the client reads the generation first."""
        path = f"/allocations/{command.arguments[0]}"
        held: dict[str, dict[str, dict[str, int]]] = {}
        for text in command.options["--allocation"]:
            provider, *amounts = text.removeprefix("rp=").split(",")
            held[provider] = {"resources": {name: int(n) for name, n in (one.split("=") for one in amounts)}}
        body = {
            "allocations": held,
            "project_id": command.option("--project-id"),
            "user_id": command.option("--user-id"),
            "consumer_generation": self._ask(command, "GET", path).get("consumer_generation"),
        }
        self._ask(command, "PUT", path, body)
        return ""

    # Nova

    def server_delete(self, command: Command) -> str:
        [server] = command.arguments
        mappings, requests = tables.instance_mappings, tables.build_requests
        found = self._rows("nova_api", sa.select(mappings).where(mappings.c.instance_uuid == server))
        if not found:
            raise CommandFailed("404: no mapping")
        if found[0].cell_id is not None:
            instances = tables.instances
            row = sa.select(instances).where(instances.c.uuid == server, instances.c.deleted == 0)
            if not self._rows(self._cell(found[0].cell_id), row):
                raise CommandFailed("404: the cell has no such instance")
            self._cloud.delete(server)
        elif not self._rows("nova_api", sa.select(requests).where(requests.c.instance_uuid == server)):
            raise CommandFailed("404: neither a cell nor a build request")
        else:
            marked = sa.update(mappings).where(mappings.c.instance_uuid == server).values(queued_for_delete=True)
            self._stage.execute("nova_api", sa.delete(requests).where(requests.c.instance_uuid == server))
            self._stage.execute("nova_api", marked)
            self._cloud.hold(server, {})
        return ""

    def service_list(self, command: Command) -> str:
        """List services with their ids and the seconds since their last report."""
        services, rows = tables.services, []
        for cell in self._cloud.cells:
            query = sa.select(services).where(services.c.host == command.option("--host"), services.c.deleted == 0)
            rows += [{"ID": row.uuid, "Cell": cell} for row in self._rows(cell, query)]
        return json.dumps(rows)

    def service_delete(self, command: Command) -> str:
        """Delete a service with its nodes and their providers, and remove its host from the cell and from all aggregates."""
        services, nodes, members = tables.services, tables.compute_nodes, tables.aggregate_hosts
        for cell in self._cloud.cells:
            for service in self._rows(cell, sa.select(services).where(services.c.uuid == command.arguments[0])):
                living = tables.instances.c.host == service.host, tables.instances.c.deleted == 0
                if self._rows(cell, sa.select(tables.instances).where(*living)):
                    raise CommandFailed("409: the service has instances")
                for node in self._rows(cell, sa.select(nodes).where(nodes.c.host == service.host)):
                    self._cloud.placement.request("DELETE", f"/resource_providers/{node.uuid}")
                for table in (services, nodes):
                    gone = sa.update(table).where(table.c.host == service.host).values(deleted=table.c.id)
                    self._stage.execute(cell, gone)
                self._stage.execute("nova_api", sa.delete(members).where(members.c.host == service.host))
                mapped = tables.host_mappings
                self._stage.execute("nova_api", sa.delete(mapped).where(mapped.c.host == service.host))
                return ""
        raise CommandFailed("404: no such service")

    def aggregate_show(self, command: Command) -> str:
        aggregates, members = tables.aggregates, tables.aggregate_hosts
        named = sa.select(members.c.host).join_from(members, aggregates, members.c.aggregate_id == aggregates.c.id)
        return json.dumps(
            [row.host for row in self._rows("nova_api", named.where(aggregates.c.name == command.arguments[0]))]
        )

    def aggregate_remove_host(self, command: Command) -> str:
        name, host = command.arguments
        aggregates = tables.aggregates
        [row] = self._rows("nova_api", sa.select(aggregates).where(aggregates.c.name == name))
        self._cloud.remove_host_from_aggregate(row.uuid, host, placement_ok=False)
        return ""

    def delete_host(self, command: Command) -> str:
        cell, host = command.option("--cell_uuid"), command.option("--host")
        mapped, cells, nodes = tables.host_mappings, tables.cell_mappings, tables.compute_nodes
        of_host = sa.select(cells).join(mapped, mapped.c.cell_id == cells.c.id).where(mapped.c.host == host)
        found = self._rows("nova_api", of_host)
        if [row.uuid for row in found] != [cell]:
            raise CommandFailed(f"2 or 3: the host is mapped to {found}")
        living = tables.instances.c.host == host, tables.instances.c.deleted == 0
        if self._rows(found[0].name, sa.select(tables.instances).where(*living)):
            raise CommandFailed("4: there are instances on the host")
        self._stage.execute(found[0].name, sa.update(nodes).where(nodes.c.host == host).values(mapped=0))
        self._stage.execute("nova_api", sa.delete(mapped).where(mapped.c.host == host))
        return ""

    def list_hosts(self, command: Command) -> str:
        return json.dumps([row.host for row in self._rows("nova_api", sa.select(tables.host_mappings))])

    def verify_instance(self, command: Command) -> str:
        mappings = tables.instance_mappings
        query = sa.select(mappings).where(mappings.c.instance_uuid == command.option("--uuid"))
        mapped = [row.cell_id for row in self._rows("nova_api", query) if row.cell_id is not None]
        return f"is in cell {self._cell(mapped[0])}" if mapped else "is not mapped to a cell"

    def list_cells(self, command: Command) -> str:
        cells = tables.cell_mappings
        return json.dumps([row.database_connection for row in self._rows("nova_api", sa.select(cells))])

    def heal_allocations(self, command: Command) -> str:
        """Give an instance the resources of its flavor on its node, and nothing else."""
        server = command.option("--instance")
        row = self._cloud.instance(server)
        self._cloud.hold(server, {self._cloud.node(row.host, row.node).uuid: self._cloud.flavor(server).resources()})
        return ""

    # Neutron and Cyborg

    def port_list(self, command: Command) -> str:
        server = command.option("--server")
        return json.dumps([port for port, values in self._stage.neutron.ports.items() if values["device_id"] == server])

    def port_show(self, command: Command) -> str:
        return json.dumps(self._stage.neutron.ports[command.arguments[0]])

    def port_create(self, command: Command) -> str:
        addresses = [dict(part.split("=") for part in one.split(",")) for one in command.options.get("--fixed-ip", ())]
        fixed = [{"subnet_id": one["subnet"], "ip_address": one["ip-address"]} for one in addresses]
        mac, network = command.option("--mac-address"), command.option("--network")
        return self._stage.neutron.add(name=command.arguments[0], network_id=network, mac_address=mac, fixed_ips=fixed)

    def port_delete(self, command: Command) -> str:
        del self._stage.neutron.ports[command.arguments[0]]
        return ""

    def port_unset(self, command: Command) -> str:
        [port] = command.arguments
        profile = dict(self._stage.neutron.ports[port]["binding:profile"])
        for key in command.options.get("--binding-profile", ()):
            del profile[key]
        names = {"--device": "device_id", "--device-owner": "device_owner", "--host": "binding:host_id"}
        changes = {names[option]: "" for option in command.options if option in names}
        self._stage.neutron.change(port, **changes, **{"binding:profile": profile})
        return ""

    def port_set(self, command: Command) -> str:
        """Change a port; a binding profile is added to what the port has."""
        [port] = command.arguments
        names = {"--device": "device_id", "--device-owner": "device_owner", "--host": "binding:host_id"}
        names["--dns-name"] = "dns_name"
        changes: dict[str, Any] = {names[name]: value for name, [value] in command.options.items() if name in names}
        if "--binding-profile" in command.options:
            profile = self._stage.neutron.ports[port]["binding:profile"]
            changes["binding:profile"] = {**profile, **json.loads(command.option("--binding-profile"))}
        self._stage.neutron.change(port, **changes)
        return ""

    def arq_delete(self, command: Command) -> str:
        self.released += command.arguments
        return ""

    def _rows(self, database: str, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        engine = self._cloud.api if database == "nova_api" else self._cloud.cells[database]
        with engine.connect() as connection:
            return list(connection.execute(query))

    def _cell(self, number: int) -> str:
        cells = tables.cell_mappings
        [row] = self._rows("nova_api", sa.select(cells.c.name).where(cells.c.id == number))
        return str(row.name)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands and statements of an undo, each with its database. A value can contain newlines."""
    database, statement = "nova_api", ""
    for line in text.splitlines():
        if line.startswith(_CELL):
            database = line.removeprefix(_CELL).removeprefix("cell:")
        elif line.startswith(_API):
            database = "nova_api"
        elif line.strip() and not line.startswith("--"):
            statement += f"\n{line}" if statement else line
            if not _STATEMENT.match(statement) or sqlite3.complete_statement(statement):
                yield database, statement
                statement = ""


_RUN: Mapping[str, Callable[[Operator, Command], str]] = {
    "nova-manage cell_v2 delete_host": Operator.delete_host,
    "nova-manage cell_v2 list_cells": Operator.list_cells,
    "nova-manage cell_v2 list_hosts": Operator.list_hosts,
    "nova-manage cell_v2 verify_instance": Operator.verify_instance,
    "nova-manage placement heal_allocations": Operator.heal_allocations,
    "openstack accelerator arq delete": Operator.arq_delete,
    "openstack aggregate remove host": Operator.aggregate_remove_host,
    "openstack aggregate show": Operator.aggregate_show,
    "openstack compute service delete": Operator.service_delete,
    "openstack compute service list": Operator.service_list,
    "openstack port create": Operator.port_create,
    "openstack port delete": Operator.port_delete,
    "openstack port list": Operator.port_list,
    "openstack port set": Operator.port_set,
    "openstack port show": Operator.port_show,
    "openstack port unset": Operator.port_unset,
    "openstack resource provider aggregate set": Operator.aggregate_set,
    "openstack resource provider allocation delete": Operator.allocation_delete,
    "openstack resource provider allocation set": Operator.allocation_set,
    "openstack resource provider allocation show": Operator.allocation_show,
    "openstack resource provider create": Operator.provider_create,
    "openstack resource provider delete": Operator.provider_delete,
    "openstack resource provider inventory set": Operator.inventory_set,
    "openstack resource provider list": Operator.provider_list,
    "openstack resource provider set": Operator.provider_set,
    "openstack resource provider show": Operator.provider_show,
    "openstack server delete": Operator.server_delete,
}
