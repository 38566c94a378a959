"""A host in other letters: one host for MariaDB, two for PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from keystoneauth1 import adapter, session, token_endpoint
from oslo_config import cfg

from handlers.access.cloud import Service
from handlers.base import Key, Resources
from handlers.nova import options, tables
from handlers.nova.database import NovaDatabases
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.objects import OBJECTS
from handlers.nova.placement import Placement
from handlers.nova.simulation import PlacementServer
from tests.services.nova import add, ago, database, engine, url

__all__ = ["database", "engine", "url"]

AGGREGATE, NODE = str(uuid.uuid4()), str(uuid.uuid4())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacementServer]:
    """Placement with the provider of ``node-1``."""
    made = PlacementServer(tmp_path_factory.mktemp("placement"))
    made.start()
    assert made.request("POST", "/resource_providers", {"uuid": NODE, "name": "node-1"}).status == 200
    traits = {"resource_provider_generation": 0, "traits": ["COMPUTE_NODE"]}
    assert made.request("PUT", f"/resource_providers/{NODE}/traits", traits).status == 200
    yield made
    made.stop()


@pytest.fixture
def placement(server: PlacementServer) -> Placement:
    """Placement, where ``node-1`` is in no aggregate."""
    put_in(server)
    account = session.Session(token_endpoint.Token(server.url, server.TOKEN))
    return Placement(Service(adapter.Adapter(account, service_type="placement", raise_exc=False), "placement"))


def put_in(server: PlacementServer, *aggregates: str) -> None:
    generation = server.request("GET", f"/resource_providers/{NODE}").body["generation"]
    body = {"aggregates": aggregates, "resource_provider_generation": generation}
    assert server.request("PUT", f"/resource_providers/{NODE}/aggregates", body).status == 200


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


def test_a_member_in_other_letters(
    databases: NovaDatabases, engine: sa.Engine, server: PlacementServer, placement: Placement
) -> None:
    put_in(server, AGGREGATE)
    sync = SyncAggregates(databases, placement, remove=True)
    if engine.dialect.name == "postgresql":
        assert set(problems(sync, Key("aggregate", AGGREGATE))) == {"member-without-node", "membership-stale"}
        return
    assert not list(sync.sweep())
    assert not problems(sync, Key("aggregate", AGGREGATE))
    assert not problems(sync, Key("host", "NODE-1"))


def test_a_missing_member_in_other_letters(
    databases: NovaDatabases, engine: sa.Engine, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = SyncAggregates(databases, placement)
    monkeypatch.setattr(databases, "require_known_schema", lambda: None)
    if engine.dialect.name == "postgresql":
        assert problems(sync, Key("aggregate", AGGREGATE)) == ["member-without-node"]
        return
    [finding] = sync.inspect(Key("aggregate", AGGREGATE))
    sync.heal(finding)
    held = placement.aggregates(NODE)
    assert held is not None
    assert held.aggregates == {AGGREGATE}


def test_a_mapping_in_other_letters(databases: NovaDatabases, engine: sa.Engine) -> None:
    discover = DiscoverHosts(databases)
    unmapped = engine.dialect.name == "postgresql"
    assert list(discover.sweep()) == ([Key("host", "node-1")] if unmapped else [])
    assert problems(discover, Key("host", "node-1")) == (["host-unmapped"] if unmapped else [])


@pytest.mark.usefixtures("databases")
def test_a_host_that_an_exemption_names_in_other_letters(engine: sa.Engine, url: str) -> None:
    conf = cfg.ConfigOpts()
    conf.register_opts(options.OPTIONS, options.GROUP)
    conf(args=[], default_config_files=[], default_config_dirs=[])
    conf.set_override("api_database_connection", url, options.GROUP)
    [exists] = [one.exists for one in OBJECTS if one.kind == "host"]
    assert exists is not None
    with closing(Resources(conf)) as resources:
        assert exists(resources, "node-1")
        assert exists(resources, "NODE-1") == (engine.dialect.name != "postgresql")
        assert not exists(resources, "node-2")
