"""A sweep finds every problem that an inspection can prove, without any event.

The table of drifts is in :mod:`tests.functional.nova.sweeps`. The problems come from the code, so that a new problem without a
drift fails.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import handlers.nova
from consumer import plugins
from handlers.access.cloud import Service
from handlers.base import Handler, Incomplete, Key, Unavailable
from handlers.nova import database, tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.hosts.audit_providers import AuditProviders
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.mappings import map_instances
from handlers.nova.mappings.map_instances import MapInstances
from tests.compute import remember
from tests.functional.nova.proofs.changes import set_up
from tests.functional.nova.proofs.stage import Scene, Stage
from tests.functional.nova.site import Site
from tests.functional.nova.sweeps import (
    allocations,
    archive,
    attachments,
    bindings,
    devices,
    hosts,
    info_cache,
    instances,
    mappings,
    migrations,
    ports,
)
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.test_port_requests import EGRESS, group, make_card
from tests.functional.nova.world import swept

DRIFTS = (
    *hosts.DRIFTS,
    *mappings.DRIFTS,
    *allocations.DRIFTS,
    *ports.DRIFTS,
    *migrations.DRIFTS,
    *bindings.DRIFTS,
    *devices.DRIFTS,
    *attachments.DRIFTS,
    *instances.DRIFTS,
    *info_cache.DRIFTS,
    *archive.DRIFTS,
)
NOVA = [handler for handler in plugins.handlers() if handler.__module__.startswith("handlers.nova.")]
#: by call: the position of its argument that is a problem
PROBLEM_OF = {"Finding": 1, "Report": 0}


@pytest.fixture(scope="module")
def healthy(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Scene]]:
    with closing(Stage(site.clear(), tmp_path_factory.mktemp("stage"))) as stage:
        set_up(stage)
        yield stage, stage.scene()


@pytest.fixture
def stage(healthy: tuple[Stage, Scene], monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A healthy cloud; few instances share a key too, and the list of cells is always read."""
    monkeypatch.setattr(map_instances, "FEW", 1)
    monkeypatch.setattr(database, "CELLS_TTL", -1.0)
    stage, scene = healthy
    stage.show(scene)
    return stage


def problems() -> Iterator[StrEnum]:
    """Yield the members of every ``Problem`` of Nova's handlers."""
    for module in pkgutil.walk_packages(handlers.nova.__path__, "handlers.nova."):
        yield from getattr(importlib.import_module(module.name), "Problem", ())


def named(members: Iterable[StrEnum]) -> set[str]:
    """Tell apart equal slugs of several families."""
    return {f"{type(one).__module__}.{one.name}" for one in members}


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_a_sweep_finds_the_problem(stage: Stage, drift: Drift) -> None:
    with stage.handler(drift.handler) as handler:
        assert not swept(handler)
    drift.make(stage)
    with stage.handler(drift.handler) as handler:
        found = {finding.problem for key in swept(handler) for finding in handler.inspect(key)}
    assert drift.problem in found


@contextmanager
def silent(stage: Stage, *cells: str) -> Iterator[None]:
    """Make these cells unreachable for a while."""
    c = tables.cell_mappings.c
    with stage.cloud.api.connect() as connection:
        found = connection.execute(sa.select(c.name, c.database_connection).where(c.name.in_(cells)))
        urls = {row.name: row.database_connection for row in found}

    def point(name: str, url: str) -> None:
        stage.execute("nova_api", sa.update(tables.cell_mappings).where(c.name == name).values(database_connection=url))

    for name in urls:
        point(name, "sqlite:////nowhere/at/all.db")
    try:
        yield
    finally:
        for name, url in urls.items():
            point(name, url)


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_once_a_silent_cell_answers_the_rest_of_the_sweep_lists_what_it_kept(stage: Stage, drift: Drift) -> None:
    drift.make(stage)
    with stage.handler(drift.handler) as handler:
        whole = swept(handler)
    listed: set[Key] = set()
    missing: frozenset[str] = frozenset()
    with stage.handler(drift.handler) as handler:
        try:
            with silent(stage, "cell1"):
                listed.update(handler.sweep())
        except Incomplete as error:
            missing = error.missing
        except Unavailable:
            return  # it ended early, and a whole sweep follows
        rest = handler.sweep_rest(missing) if missing else iter(())
        listed.update(handler.sweep() if rest is None else rest)
    assert missing <= {"cell:cell1"}
    assert whole <= listed


@pytest.mark.parametrize(
    "kind",
    [DiscoverHosts, AuditProviders, AuditMigrations, MapInstances, ArchiveDeletedRows],
    ids=lambda kind: kind.name,
)
def test_the_rest_of_a_sweep_asks_no_other_cell(stage: Stage, kind: type[Handler]) -> None:
    with stage.handler(kind) as handler, silent(stage, "cell0", "cell1"):
        rest = handler.sweep_rest(frozenset({"cell:cell2"}))
        assert rest is not None
        assert not set(rest)


@pytest.mark.parametrize("kind", [AuditAllocations], ids=lambda kind: kind.name)
def test_the_rest_of_a_sweep_asks_placement_for_no_node_of_another_cell(
    stage: Stage, kind: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    live(stage, make_card(stage.cloud, "a"), 1)
    node = stage.cloud.node("a").uuid  # asks the databases, which is counted too
    with stage.handler(kind) as handler, counted(stage, monkeypatch) as asked:
        assert not set(handler.sweep())
        assert any(node in url for url in asked)
        asked.clear()
        rest = handler.sweep_rest(frozenset({"cell:cell2"}))
        assert rest is not None
        assert not set(rest)
        assert not any(node in url for url in asked)


def live(stage: Stage, card: str, count: int) -> None:
    """Boot instances with a port that has bandwidth, offload some, and delete some."""
    cloud = stage.cloud
    with cloud.ago(hours=3):
        for _ in range(count):
            instance, asked = cloud.boot("a"), group({EGRESS: 5})
            given = {"allocation": {asked["id"]: card}}
            stage.neutron.add(
                device_id=instance,
                device_owner="compute:nova",
                binding_host_id="a",
                binding_profile=given,
                resource_request={"request_groups": [asked], "same_subtree": [asked["id"]]},
            )
            remember(cloud, instance, [stage.neutron.ports[one] for one in stage.neutron.of(instance)])
            cloud.hold(instance, {**cloud.allocation(instance), card: {EGRESS: 5}})
            cloud.shelve_offload(cloud.boot("a"))
            cloud.delete(cloud.boot("a"))


@contextmanager
def counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the statements and requests of a handler."""
    asked: list[str] = []
    call, placement = Service._call, str(stage.cloud.placement.database)

    def noted(service: Service, method: str, url: str, arguments: Any) -> Any:
        asked.append(url)
        return call(service, method, url, arguments)

    def listen(connection: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        if connection.engine.url.database != placement:
            asked.append(statement)

    with monkeypatch.context() as patch:
        patch.setattr(Service, "_call", noted)
        sa.event.listen(sa.Engine, "before_cursor_execute", listen)
        try:
            yield asked
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", listen)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOVA, ids=lambda handler: handler.name)
def test_the_sweep_of_a_healthy_cloud_costs_the_same_for_more_instances(
    stage: Stage, kind: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = make_card(stage.cloud, "a")
    costs = []
    for count in (1, 5):
        live(stage, card, count)
        with stage.handler(kind) as handler, counted(stage, monkeypatch) as asked:
            assert not swept(handler)
        costs.append(len(asked))
    assert costs[0] == costs[1] > 0


def test_every_problem_has_a_drift() -> None:
    assert named(drift.problem for drift in DRIFTS) == named(problems())


@pytest.mark.parametrize("handler", NOVA, ids=lambda handler: handler.name)
def test_a_handler_heals_only_problems_of_the_table(handler: type[Handler]) -> None:
    found = {drift.problem for drift in DRIFTS if drift.handler is handler}
    assert found
    assert handler.healable_problems <= found


def test_every_finding_names_a_member_of_problem() -> None:
    literal = [
        f"{file}:{call.lineno}"
        for file in sorted(Path(handlers.nova.__path__[0]).rglob("*.py"))
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in PROBLEM_OF
        if isinstance(call.args[PROBLEM_OF[call.func.id]], ast.Constant)
    ]
    assert not literal
