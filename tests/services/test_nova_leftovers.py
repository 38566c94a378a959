"""The queries about ended migrations and deleted services, on the servers that Nova runs on."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from handlers.access.database import Database
from handlers.base import Conflict
from handlers.nova import queries, tables
from handlers.nova.hosts import queries as host_queries
from handlers.nova.hosts.leftover_rules import Traces
from handlers.nova.records import HostMapping
from tests.services.nova import add, ago, database, engine, url

__all__ = ["database", "engine", "url"]


def test_what_is_left_of_a_host(engine: sa.Engine, database: Database) -> None:
    compute = {"binary": "nova-compute", "topic": "compute"}
    gone = {"deleted_at": ago(hours=1)}
    add(engine, tables.services, id=1, uuid="s1", host="live", **compute)
    add(engine, tables.services, id=2, uuid="s2", host="gone", deleted=2, **compute, **gone)
    add(engine, tables.services, id=3, uuid="s3", host="gone", binary="nova-conductor", topic="conductor")
    add(engine, tables.compute_nodes, id=1, uuid="n1", host="live", hypervisor_hostname="live.x")
    add(engine, tables.compute_nodes, id=2, uuid="n2", host="gone", hypervisor_hostname="gone.x", deleted=2, **gone)
    archived = {"vcpus": 0, "memory_mb": 0, "local_gb": 0, "deleted_at": ago(hours=3)}
    add(
        engine,
        tables.shadow_compute_nodes,
        id=3,
        uuid="n3",
        host="gone",
        hypervisor_hostname="x",
        deleted=3,
        **archived,
    )
    add(engine, tables.shadow_services, id=9, uuid="s9", host="older", deleted=9, deleted_at=None, **compute)
    add(engine, tables.instances, uuid="i", host="live", node="live.x")
    add(engine, tables.instances, uuid="d", host="gone", node="gone.x", deleted=2)
    ends = {"source_compute": "live", "source_node": "live.x", "dest_compute": "gone", "dest_node": "gone.x"}
    for number, status in enumerate(("failed", "running", None, "done")):
        add(engine, tables.migrations, uuid=f"m{number}", instance_uuid="i", status=status, **ends)

    assert database.run(host_queries.present) == ({"live"}, {"n1"})
    traces = database.run(lambda connection: host_queries.traces(connection, "gone"))
    assert (traces.services, traces.nodes, traces.instances, traces.migrations) == (0, (), 0, 2)
    assert traces.deleted == pytest.approx(3600, abs=30)
    ages = {node.uuid: node.age for node in traces.former}
    assert ages == {"n2": pytest.approx(3600, abs=30), "n3": pytest.approx(3 * 3600, abs=30)}
    assert database.run(lambda connection: host_queries.traces(connection, "live")) == Traces(1, ("n1",), 1, 2)
    assert database.run(lambda connection: host_queries.traces(connection, "older")).deleted == float("inf")
    assert database.run(lambda connection: host_queries.traces(connection, "nowhere")) == Traces(0, (), 0, 0)
    assert database.run(queries.stayed) == {"n1": {"m0": "i", "m3": "i"}}


def test_a_mapping_is_deleted_as_it_was_and_its_undo_restores_it(engine: sa.Engine, database: Database) -> None:
    for number in (1, 2):
        add(engine, tables.cell_mappings, id=number, uuid=f"u{number}", name=f"cell{number}")
    name, made = "it's 100% gone", ago(days=3)
    add(engine, tables.host_mappings, host=name, cell_id=2, created_at=made)
    undo = database.run(lambda connection: host_queries.undo_of_forget(connection, HostMapping(name, 2)))
    assert database.run(lambda connection: host_queries.mapping_age(connection, name)) == pytest.approx(
        3 * 86400, abs=30
    )
    for mapping, known in ((HostMapping(name, 1), undo), (HostMapping(name, 2), "")):
        with pytest.raises(Conflict):
            database.run(partial(host_queries.forget_host, before=mapping, undo=known))
    assert database.run(queries.mapped_hosts) == {name: 2}

    database.run(partial(host_queries.forget_host, before=HostMapping(name, 2), undo=undo))

    assert database.run(queries.mapped_hosts) == {}
    with pytest.raises(Conflict):
        database.run(partial(host_queries.forget_host, before=HostMapping(name, 2), undo=undo))
    with engine.begin() as connection:
        connection.exec_driver_sql(undo.replace("%", "%%"))
        c = tables.host_mappings.c
        assert connection.execute(sa.select(c.host, c.cell_id, c.created_at)).one() == (name, 2, made)
