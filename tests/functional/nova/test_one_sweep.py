"""One one-shot sweep heals drift whose heals build on each other."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.conf.engine import EngineSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.oneshot import OneShot
from consumer.engine.task import Task
from consumer.journal import controls
from handlers.base import Mode, Resources
from handlers.nova import tables
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.simulation import NovaSimulation
from tests import journals


def test_an_instance_without_mapping_and_allocation_is_healed_by_one_sweep(
    cloud: NovaSimulation, resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (HealAllocations, MapInstances):
        monkeypatch.setattr(kind, "confirm_after", 0.1)
    cloud.add_compute("compute-1", "cell1")
    cloud.map_host("compute-1")
    with cloud.ago(hours=3):
        instance = cloud.boot("compute-1")
    held = cloud.allocation(instance)
    cloud.hold(instance, {})
    with cloud.api.begin() as connection:
        mapping = tables.instance_mappings
        connection.execute(sa.delete(mapping).where(mapping.c.instance_uuid == instance))
    journal = journals.fresh(tmp_path)
    settings = TaskSettings(Mode.HEAL, 0, Window(), 0)
    tasks = [
        Task(kind.from_resources(resources), settings, lambda: datetime.now(UTC))
        for kind in (HealAllocations, MapInstances)
    ]
    controls.ensure(journal, [task.name for task in tasks])

    results = OneShot(journal, EngineSettings(), "cli").sweep(tasks)

    assert [(result.handler, result.action) for result in results] == [
        ("map_instances", "healed"),
        ("heal_allocations", "healed"),
    ]
    assert cloud.allocation(instance) == held
    journal.close()
