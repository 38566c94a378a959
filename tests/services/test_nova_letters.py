"""A host in other letters: one host for MariaDB, two for PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import pytest
import sqlalchemy as sa

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.database import NovaDatabases
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.placement import Provider, ProviderAggregates
from tests.services.nova import add, ago, database, engine, url

__all__ = ["database", "engine", "url"]

AGGREGATE, NODE = str(uuid.uuid4()), str(uuid.uuid4())


class Members:
    """The part of Placement that knows one provider and its aggregates."""

    def __init__(self, *aggregates: str) -> None:
        self.held = ProviderAggregates(NODE, frozenset(aggregates), 1)

    def members(self, aggregate: str) -> dict[str, Provider]:
        return {NODE: Provider(NODE, "node-1", NODE)} if aggregate in self.held.aggregates else {}

    def is_compute_node(self, provider: str) -> bool:
        return provider == NODE

    def aggregates(self, provider: str) -> ProviderAggregates | None:
        return self.held if provider == NODE else None

    def set_aggregates(self, before: ProviderAggregates, aggregates: Iterable[str]) -> None:
        self.held = ProviderAggregates(NODE, frozenset(aggregates), before.generation + 1)


@pytest.fixture
def databases(engine: sa.Engine, url: str) -> Iterable[NovaDatabases]:
    """Node ``node-1``, whose aggregate calls it ``Node-1``."""
    for number, name in ((1, "nova_api"), (2, "cell")):
        add(engine, tables.cell_mappings, id=number, uuid=str(uuid.uuid4()), name=name, database_connection=url)
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.cell_mappings).where(tables.cell_mappings.c.id == 1))
    compute = {"host": "node-1", "created_at": ago(days=1)}
    add(engine, tables.services, uuid=str(uuid.uuid4()), binary="nova-compute", topic="compute", **compute)
    add(engine, tables.compute_nodes, uuid=NODE, hypervisor_hostname="node-1", **compute)
    add(engine, tables.aggregates, id=1, uuid=AGGREGATE, name="fast")
    add(engine, tables.aggregate_hosts, aggregate_id=1, host="Node-1")
    add(engine, tables.host_mappings, host="Node-1", cell_id=2)
    add(engine, tables.cell_version, version_num="d60bddf7a903")
    made = NovaDatabases(url)
    yield made
    made.close()


def problems(handler: SyncAggregates | DiscoverHosts, key: Key) -> list[str]:
    return [finding.problem for finding in handler.inspect(key)]


def test_a_member_in_other_letters(databases: NovaDatabases, engine: sa.Engine) -> None:
    sync = SyncAggregates(databases, Members(AGGREGATE), remove=True)  # type: ignore[arg-type]
    if engine.dialect.name == "postgresql":
        assert set(problems(sync, Key("aggregate", AGGREGATE))) == {"member-without-node", "membership-stale"}
        return
    assert not list(sync.sweep())
    assert not problems(sync, Key("aggregate", AGGREGATE))
    assert not problems(sync, Key("host", "NODE-1"))


def test_a_missing_member_in_other_letters(
    databases: NovaDatabases, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Members()
    sync = SyncAggregates(databases, members)  # type: ignore[arg-type]
    monkeypatch.setattr(databases, "require_known_schema", lambda: None)
    if engine.dialect.name == "postgresql":
        assert problems(sync, Key("aggregate", AGGREGATE)) == ["member-without-node"]
        return
    [finding] = sync.inspect(Key("aggregate", AGGREGATE))
    sync.heal(finding)
    assert members.held.aggregates == {AGGREGATE}


def test_a_mapping_in_other_letters(databases: NovaDatabases, engine: sa.Engine) -> None:
    discover = DiscoverHosts(databases)
    unmapped = engine.dialect.name == "postgresql"
    assert list(discover.sweep()) == ([Key("host", "node-1")] if unmapped else [])
    assert problems(discover, Key("host", "node-1")) == (["host-unmapped"] if unmapped else [])
