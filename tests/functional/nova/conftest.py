"""A small cloud with the real Placement, and the handlers pointed at it by a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.base import Handler, Resources
from handlers.nova import database, queries, tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.cinder import Cinder
from handlers.nova.simulation.neutron import Neutron
from tests.compute import Compute
from tests.functional.nova.frugal import frugal
from tests.functional.nova.opened import opened
from tests.functional.nova.proofs.stage import Scene, Stage
from tests.functional.nova.site import Site

HANDLERS: tuple[type[Handler], ...] = (DiscoverHosts, SyncAggregates, AuditAllocations)


@pytest.fixture(autouse=True)
def fresh_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the list of cells every time: tests change it."""
    monkeypatch.setattr(database, "CELLS_TTL", -1.0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no host be down because the tests run slowly."""
    monkeypatch.setattr(queries, "DOWN_TIME", 1800.0)


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    cloud = NovaSimulation(tmp_path_factory.mktemp("cloud"))
    with frugal():
        cloud.start()
        yield Site(cloud)
        cloud.stop()


@pytest.fixture(scope="module")
def stage(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One cloud for all tests of a module, which show the scene that they need."""
    with closing(Stage(site.clear(), tmp_path_factory.mktemp("stage"))) as made:
        yield made


@pytest.fixture(scope="module")
def empty(stage: Stage) -> Scene:
    return stage.scene()


@pytest.fixture
def cloud(site: Site, request: pytest.FixtureRequest) -> NovaSimulation:
    """A cloud with the hosts of the test's mark, each with the name of its cell: ``pytest.mark.hosts(a="cell1")``."""
    mark = request.node.get_closest_marker("hosts")
    if mark is None:
        return site.clear()
    hosts = tuple(mark.kwargs.items())
    site.begin(hosts, lambda cloud: add_hosts(cloud, hosts))
    return site.cloud


def add_hosts(cloud: NovaSimulation, hosts: Iterable[tuple[str, str]]) -> None:
    """Add hosts, each with its cell, which are mapped and a day old."""
    with cloud.ago(days=1):
        for host, cell in hosts:
            cloud.add_compute(host, cell)
            cloud.map_host(host)


@pytest.fixture
def resources(cloud: NovaSimulation, tmp_path: Path) -> Iterator[Resources]:
    with opened(cloud, tmp_path, HANDLERS) as made:
        yield made


@pytest.fixture
def neutron(cloud: NovaSimulation) -> Neutron:
    """The simulated Neutron, with short pages."""
    cloud.neutron.page = 2
    return cloud.neutron


@pytest.fixture
def compute(resources: Resources, cloud: NovaSimulation) -> Iterator[Compute]:
    """An API of Nova at which the handlers look."""
    double = Compute(cloud)
    resources.conf.set_override("compute_endpoint_override", double.url, "openstack")
    yield double
    double.close()


@pytest.fixture
def cinder(cloud: NovaSimulation) -> Cinder:
    """The simulated Cinder, with short pages."""
    cloud.cinder.page = 2
    return cloud.cinder


@pytest.fixture
def discover(resources: Resources) -> DiscoverHosts:
    return DiscoverHosts.from_resources(resources)


@pytest.fixture
def sync(resources: Resources) -> SyncAggregates:
    return SyncAggregates.from_resources(resources)


@pytest.fixture
def audit(resources: Resources) -> AuditAllocations:
    return AuditAllocations.from_resources(resources)


@pytest.fixture
def heal(resources: Resources) -> HealAllocations:
    return HealAllocations.from_resources(resources)


@pytest.fixture
def cut(cloud: NovaSimulation) -> Callable[[str], None]:
    """Make a cell unreachable from now on."""

    def cut_off(name: str) -> None:
        mappings = tables.cell_mappings
        gone = sa.update(mappings).where(mappings.c.name == name)
        with cloud.api.begin() as connection:
            connection.execute(gone.values(database_connection="sqlite:////nowhere/at/all.db"))

    return cut_off
