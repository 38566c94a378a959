"""The example heals a simulated Nova. Each test asserts the rows that are left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest
import sqlalchemy as sa
from expired_consoles import ExpiredConsoles

from handlers.base import Conflict
from handlers.nova.simulation import NovaSimulation
from handlers.testing import configured, findings, heal_all, swept

DAY = 86400
#: seconds since each token expired, by its id; token 3 is still valid
AGES = {1: 2 * DAY, 2: 60, 3: -DAY}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[NovaSimulation]:
    """A cloud whose host ``compute-9`` of ``cell1`` was added, and removed again."""
    simulation = NovaSimulation(tmp_path)
    simulation.start()
    with simulation.cells["cell1"].begin() as connection:
        connection.execute(sa.text("CREATE TABLE console_auth_tokens (id INTEGER, host TEXT, expires INTEGER)"))
        for number, age in AGES.items():
            values = {"id": number, "expires": int(time()) - age}
            connection.execute(sa.text("INSERT INTO console_auth_tokens VALUES (:id, 'compute-9', :expires)"), values)
    with simulation.cells["cell2"].begin() as connection:
        connection.execute(sa.text("CREATE TABLE console_auth_tokens (id INTEGER, host TEXT, expires INTEGER)"))
        connection.execute(sa.text("INSERT INTO console_auth_tokens VALUES (4, 'unknown-host', 0)"))
    simulation.add_compute("compute-9", "cell1")
    simulation.map_host("compute-9")
    simulation.delete_service("compute-9")
    yield simulation
    simulation.stop()


@pytest.fixture
def handler(cloud: NovaSimulation, tmp_path: Path) -> ExpiredConsoles:
    return ExpiredConsoles.from_resources(configured(ExpiredConsoles, cloud.options(), tmp_path))


def tokens(cloud: NovaSimulation, cell: str) -> list[int]:
    """Return the ids of the tokens in a cell."""
    with cloud.cells[cell].connect() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM console_auth_tokens ORDER BY id")))


def test_it_deletes_expired_tokens_of_a_removed_host(cloud: NovaSimulation, handler: ExpiredConsoles) -> None:
    assert [healed.action for healed in heal_all(handler)] == ["deleted 1 console tokens"]

    assert tokens(cloud, "cell1") == [2, 3]
    assert swept(handler) == []


def test_a_host_without_any_service_proves_nothing(cloud: NovaSimulation, handler: ExpiredConsoles) -> None:
    heal_all(handler)

    assert tokens(cloud, "cell2") == [4]


def test_a_host_that_returns_before_the_heal_keeps_its_tokens(cloud: NovaSimulation, handler: ExpiredConsoles) -> None:
    [key] = swept(handler)
    [finding] = findings(handler, key)
    cloud.register_host("compute-9", "cell1")

    with pytest.raises(Conflict):
        handler.heal(finding)

    assert tokens(cloud, "cell1") == [1, 2, 3]
