"""A restored, emptied or exchanged database stops the handlers that rely on it, on every replica."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.engine import guard
from consumer.journal import controls, history, watermarks
from consumer.journal.database import Database
from handlers.base import Handler, Resources, Watermark
from handlers.nova import tables
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.simulation import NovaSimulation
from handlers.nova.watermarks import nova_watermarks
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.testing import configured
from tests import journals

HANDLERS: list[type[Handler]] = [DiscoverHosts, HealInstanceMappings, DeactivatedAmphorae]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Database]:
    database = journals.fresh(tmp_path)
    controls.ensure(database, [handler.name for handler in HANDLERS])
    yield database
    database.close()


@pytest.fixture(autouse=True)
def life(cloud: NovaSimulation) -> None:
    for host in ("compute-1", "compute-2"):
        cloud.add_compute(host, "cell1")
        cloud.boot(host)


def observe(journal: Database, resources: Resources, replica: str = "r1") -> list[str]:
    return guard.check(journal, resources, [nova_watermarks], lambda: HANDLERS, replica)


def stopped(journal: Database) -> set[str]:
    return {name for name, control in controls.read(journal).items() if control.broken}


def test_a_growing_cloud_stops_nothing(journal: Database, resources: Resources, cloud: NovaSimulation) -> None:
    assert observe(journal, resources) == []
    cloud.delete(cloud.boot("compute-1"))

    assert observe(journal, resources) == []
    assert observe(journal, resources, "r2") == []
    assert stopped(journal) == set()
    assert {one.watermark.database for one in watermarks.listing(journal)} >= {"nova_api", "cell:cell1", "placement"}


def test_a_restored_cell_stops_every_handler_of_nova(
    journal: Database, resources: Resources, cloud: NovaSimulation
) -> None:
    young = cloud.boot("compute-1")
    observe(journal, resources)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.delete(tables.instances).where(tables.instances.c.uuid == young))

    [reason] = observe(journal, resources)

    assert "cell:cell1" in reason
    assert "highest id 3 before, 2 now" in reason
    assert stopped(journal) == {"discover_hosts", "heal_instance_mappings"}
    assert {(line.outcome, line.problem) for line in history.listing(journal)} == {("stopped", "database-went-back")}


def test_an_empty_schema_stops_them(journal: Database, resources: Resources, cloud: NovaSimulation) -> None:
    cloud.add_compute("compute-3", "cell1")
    observe(journal, resources)
    with cloud.cells["cell1"].begin() as connection:
        for table in (tables.services, tables.compute_nodes, tables.instances):
            connection.execute(sa.delete(table))

    [reason] = observe(journal, resources)

    assert "none of" in reason
    assert "discover_hosts" in stopped(journal)


def test_an_operator_resumes_and_the_new_database_counts(
    journal: Database, resources: Resources, cloud: NovaSimulation
) -> None:
    observe(journal, resources)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.services).values(binary="nova-other"))
    assert observe(journal, resources)

    controls.resume(journal, [handler.name for handler in HANDLERS])

    assert observe(journal, resources) == []
    assert stopped(journal) == set()


def test_a_fall_is_seen_again_when_its_stop_was_not_written(
    journal: Database, resources: Resources, cloud: NovaSimulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe(journal, resources)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.services).values(binary="nova-other"))

    def die(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(history, "write", die)
        with pytest.raises(KeyboardInterrupt):
            observe(journal, resources)
    assert stopped(journal) == set()

    assert observe(journal, resources)
    assert stopped(journal) == {"discover_hosts", "heal_instance_mappings"}


def test_an_older_observation_of_another_replica_is_no_fall(
    journal: Database, resources: Resources, cloud: NovaSimulation
) -> None:
    def slow(resources: Resources) -> Iterator[Watermark]:
        """Read the watermarks; then another replica reads and stores younger ones."""
        seen = list(nova_watermarks(resources))
        cloud.boot("compute-1")
        observe(journal, resources, "r2")
        yield from seen

    observe(journal, resources)

    assert guard.check(journal, resources, [slow], lambda: HANDLERS, "r1") == []
    assert observe(journal, resources) == []
    assert stopped(journal) == set()


def test_a_cell_that_does_not_answer_proves_nothing(
    journal: Database, resources: Resources, cloud: NovaSimulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe(journal, resources)
    file = Path(str(cloud.cells["cell1"].url.database))
    cloud.cells["cell1"].dispose()
    file.rename(file.with_suffix(".away"))
    file.mkdir()
    try:
        assert observe(journal, resources) == []
    finally:
        file.rmdir()
        file.with_suffix(".away").rename(file)
    assert stopped(journal) == set()


def test_without_credentials_for_placement_the_databases_are_watched(
    journal: Database, cloud: NovaSimulation, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    bare = configured(DiscoverHosts, {"nova": cloud.options()["nova"]}, folder)

    assert observe(journal, bare) == []

    assert {one.watermark.database for one in watermarks.listing(journal)} >= {"nova_api", "cell:cell1"}
    bare.close()
