"""``[nova] hold_disabled_reason``: a disabled compute service holds the heals of its host."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Hold, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.database import NovaDatabases
from handlers.nova.holds import disabled_hosts, nova_holds
from handlers.nova.simulation import NovaSimulation

MAINTENANCE = re.compile("(?i)maintenance")


def disable(resources: Resources, host: str, reason: str | None, *, disabled: bool = True) -> None:
    databases = resources.get(NovaDatabases.from_resources)
    for cell in databases.host_cells():
        engine = sa.create_engine(databases.database(cell).url)
        with engine.begin() as connection:
            change = sa.update(tables.services).where(tables.services.c.host == host)
            connection.execute(change.values(disabled=disabled, disabled_reason=reason))
        engine.dispose()


@pytest.fixture
def hosts(cloud: NovaSimulation) -> None:
    for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2"), ("d", "cell2")):
        cloud.add_compute(host, cell)
        cloud.map_host(host)


@pytest.mark.usefixtures("hosts")
def test_only_a_disabled_service_with_a_matching_reason_holds(resources: Resources) -> None:
    disable(resources, "a", "Maintenance until Friday")
    disable(resources, "b", "AUTO: Connection to libvirt lost")
    disable(resources, "c", None)
    disable(resources, "d", "maintenance is over", disabled=False)
    expected = [Hold("host:a", "nova-compute is disabled: Maintenance until Friday")]
    assert disabled_hosts(resources, MAINTENANCE) == expected


@pytest.mark.usefixtures("hosts")
def test_a_silent_cell_is_an_error(resources: Resources, cut: Callable[[str], None]) -> None:
    cut("cell2")
    with pytest.raises(Unavailable, match="cell:cell2"):
        disabled_hosts(resources, MAINTENANCE)


def test_without_the_option_there_is_no_source(resources: Resources) -> None:
    assert list(nova_holds(resources)) == []
    resources.conf.set_override("hold_disabled_reason", "maintenance", "nova")
    [(name, _read)] = nova_holds(resources)
    assert name == "[nova] hold_disabled_reason"
