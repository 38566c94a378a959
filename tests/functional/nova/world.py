"""Steps that the tests of several handlers of Nova share."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Finding, Handler, Key, Refused
from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron


def instance_key(instance: str) -> Key:
    return Key("instance", instance)


def swept(handler: Handler) -> set[Key]:
    """The keys that a sweep finds."""
    return set(handler.sweep())


def refused(handler: Handler, finding: Finding) -> Finding:
    """Check that a finding only reports, and return it."""
    assert not finding.healable
    assert finding.refusal
    with pytest.raises(Refused):
        handler.heal(finding)
    return finding


def only_refused(handler: Handler, key: Key) -> Finding:
    """Check that the only finding of a key only reports, and return it."""
    [finding] = handler.inspect(key)
    return refused(handler, finding)


def heal_all(handler: Handler, key: Key) -> list[Finding]:
    """Heal every finding of a key; check that no drift is left. Return the findings."""
    findings = list(handler.inspect(key))
    for finding in findings:
        assert finding.healable, finding.refusal
        handler.heal(finding)
    assert not list(handler.inspect(key))
    return findings


def heal_only(handler: Handler, key: Key) -> Finding:
    """Heal the only finding of a key, as :func:`heal_all` does; return the finding."""
    [finding] = heal_all(handler, key)
    return finding


def execute(cloud: NovaSimulation, statements: str) -> None:
    """Run the statements of a finding or history line in nova_api."""
    with cloud.api.begin() as connection:
        for statement in statements.split(";\n"):
            lines = [line for line in statement.splitlines() if not line.startswith("--")]
            if any(line.strip() for line in lines):
                connection.exec_driver_sql("\n".join(lines))


def long_ago(**age: float) -> datetime:
    """A time as Nova writes it: naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None) - timedelta(**age or {"hours": 3})


def archive(cloud: NovaSimulation, instance: str, cell: str = "cell1") -> None:
    """Move the deleted row of an instance to the shadow table, as archiving does."""
    names = [column.name for column in tables.instances.columns]
    source = tables.instances.c.uuid == instance
    with cloud.cells[cell].begin() as connection:
        for table in (tables.instance_extra, tables.instance_info_caches):
            connection.execute(sa.delete(table).where(table.c.instance_uuid == instance))
        rows = sa.select(*tables.instances.columns).where(source, tables.instances.c.deleted != 0)
        connection.execute(sa.insert(tables.shadow_instances).from_select(names, rows))
        connection.execute(sa.delete(tables.instances).where(source))


def map_alive(cloud: NovaSimulation, instance: str, cell: str, queued_for_delete: bool = False) -> None:
    """Map an instance to a cell anew, as alive unless it is marked as queued for deletion."""
    mappings, cells = tables.instance_mappings, tables.cell_mappings
    row = {"instance_uuid": instance, "project_id": cloud.PROJECT, "user_id": cloud.USER}
    with cloud.api.begin() as connection:
        home = connection.scalar(sa.select(cells.c.id).where(cells.c.name == cell))
        connection.execute(sa.delete(mappings).where(mappings.c.instance_uuid == instance))
        connection.execute(sa.insert(mappings).values(**row, cell_id=home, queued_for_delete=queued_for_delete))


def purge(cloud: NovaSimulation, instance: str) -> None:
    """Delete every row of an instance from its cell."""
    for engine in cloud.cells.values():
        with engine.begin() as connection:
            for table in (tables.instance_extra, tables.instance_info_caches):
                connection.execute(sa.delete(table).where(table.c.instance_uuid == instance))
            connection.execute(sa.delete(tables.instances).where(tables.instances.c.uuid == instance))


def add_archived(cloud: NovaSimulation, cell: str, instance: str) -> None:
    """Add the archived row of an instance."""
    row = {"uuid": instance, "id": uuid.UUID(instance).int % 2**31, "deleted": 1, "hidden": False}
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.shadow_instances).values(row))


def dump(cloud: NovaSimulation, cell: str) -> dict[str, list[dict[str, Any]]]:
    """Copy a cell's database, as a backup does."""
    with cloud.cells[cell].connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for name, table in tables.cell.tables.items()
        }


def restore(cloud: NovaSimulation, cell: str, backup: dict[str, list[dict[str, Any]]]) -> None:
    """Put a copy back: every younger row is lost."""
    with cloud.cells[cell].begin() as connection:
        for name, table in tables.cell.tables.items():
            connection.execute(sa.delete(table))
            if backup[name]:
                connection.execute(sa.insert(table), backup[name])


def swept_ids(handler: Handler) -> set[str]:
    """Return the ids of the keys of a sweep."""
    return {key.id for key in handler.sweep()}


def make_provider(cloud: NovaSimulation, name: str, offers: Mapping[str, int], parent: str | None = None) -> str:
    """Make a provider in Placement, below another one or alone, and return its uuid."""
    provider = str(uuid.uuid4())
    body = {"uuid": provider, "name": name, **({"parent_provider_uuid": parent} if parent else {})}
    assert cloud.placement.request("POST", "/resource_providers", body).status in {200, 201}
    set_inventory(cloud, provider, offers)
    return provider


def set_inventory(cloud: NovaSimulation, provider: str, offers: Mapping[str, int], **more: int) -> None:
    """Give a provider exactly these inventories."""
    url = f"/resource_providers/{provider}"
    body = {
        "resource_provider_generation": cloud.placement.request("GET", url).body["generation"],
        "inventories": {name: {"total": total, **more} for name, total in offers.items()},
    }
    reply = cloud.placement.request("PUT", f"{url}/inventories", body)
    assert reply.status == 200, reply.body


def set_traits(cloud: NovaSimulation, provider: str, *traits: str) -> None:
    """Give a provider exactly these traits."""
    url = f"/resource_providers/{provider}"
    body = {
        "resource_provider_generation": cloud.placement.request("GET", url).body["generation"],
        "traits": list(traits),
    }
    assert cloud.placement.request("PUT", f"{url}/traits", body).status == 200


def record_move(
    cloud: NovaSimulation, server: str, dest: str, status: str, kind: str = "migration", **ago: float
) -> str:
    """Add an ended migration of a server from its host to another one, and nothing else; return its uuid."""
    with cloud.ago(**(ago or {"hours": 1})):
        migration = cloud._create_migration(server, cloud.instance(server), cloud.node(dest), kind)
        cloud.set_migration(migration, status=status)
    return migration


def bind(neutron: Neutron, instance: str, host: str) -> None:
    """Let Neutron bind an instance's port to a host; an empty host unbinds it."""
    for port in neutron.of(instance):
        neutron.change(port, binding_host_id=host)


def unplug(neutron: Neutron, instance: str) -> None:
    """Delete all ports of an instance."""
    for port in neutron.of(instance):
        del neutron.ports[port]
