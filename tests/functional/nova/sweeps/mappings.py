"""Drift of instances' mappings."""

from __future__ import annotations

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.mappings import rules, unmapped_rules
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import archive, long_ago, purge

MAPPINGS, REQUESTS = tables.instance_mappings, tables.build_requests
M, U = rules.Problem, unmapped_rules.Problem


def server(stage: Stage, host: str = "a") -> str:
    with stage.cloud.ago(hours=3):
        return stage.cloud.boot(host)


def requested(stage: Stage) -> str:
    with stage.cloud.ago(hours=3):
        return stage.cloud.request()


def deleted(stage: Stage) -> str:
    with stage.cloud.ago(hours=3):
        instance = stage.cloud.boot("a")
        stage.cloud.delete(instance)
    return instance


def set_mapping(stage: Stage, instance: str, **values: object) -> None:
    with stage.cloud.api.begin() as connection:
        connection.execute(sa.update(MAPPINGS).where(MAPPINGS.c.instance_uuid == instance).values(values))


def unmap(stage: Stage, instance: str) -> None:
    with stage.cloud.api.begin() as connection:
        connection.execute(sa.delete(MAPPINGS).where(MAPPINGS.c.instance_uuid == instance))


def in_cell(stage: Stage, cell: str, instance: str, **values: object) -> None:
    row = {"uuid": instance, "project_id": "p", "host": "b", "vm_state": "active", "created_at": long_ago(), **values}
    with stage.cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))


def request_again(stage: Stage, instance: str) -> None:
    row = {"instance_uuid": instance, "project_id": "p", "instance": "{}", "created_at": long_ago()}
    with stage.cloud.api.begin() as connection:
        connection.execute(sa.insert(REQUESTS).values(row))


def lost(stage: Stage) -> str:
    instance = deleted(stage)
    purge(stage.cloud, instance)
    set_mapping(stage, instance, updated_at=None)
    return instance


def archived(stage: Stage) -> str:
    server(stage)
    instance = deleted(stage)
    archive(stage.cloud, instance)
    return instance


def without_specification(stage: Stage) -> None:
    instance = server(stage)
    stage.cloud.hold(instance, {})
    unmap(stage, instance)
    with stage.cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.request_specs))


def without_owner(stage: Stage) -> None:
    instance = server(stage)
    unmap(stage, instance)
    stage.cloud.set_instance(instance, project_id=None)


DRIFTS = (
    Drift(HealInstanceMappings, M.WITHOUT_CELL, lambda stage: set_mapping(stage, server(stage), cell_id=None)),
    Drift(HealInstanceMappings, M.STALE_REQUEST, lambda stage: request_again(stage, server(stage))),
    Drift(HealInstanceMappings, M.WRONG_MARK, lambda stage: set_mapping(stage, server(stage), queued_for_delete=True)),
    Drift(
        HealInstanceMappings,
        M.MARKED_WITHOUT_ALLOCATION,
        lambda stage: (
            instance := server(stage),
            stage.cloud.hold(instance, {}),
            set_mapping(stage, instance, queued_for_delete=True),
        ),
    ),
    Drift(HealInstanceMappings, M.LEFT_BEHIND, archived),
    Drift(HealInstanceMappings, M.ALL_LEFT_BEHIND, lambda stage: [archived(stage), archived(stage)]),
    Drift(HealInstanceMappings, M.ORPHANED, lambda stage: set_mapping(stage, archived(stage), cell_id=None)),
    Drift(
        HealInstanceMappings,
        M.NOWHERE_WITH_ALLOCATION,
        lambda stage: stage.cloud.hold(lost(stage), {stage.cloud.node("a").uuid: {"VCPU": 1}}),
    ),
    Drift(HealInstanceMappings, M.BUILD_STUCK, requested),
    Drift(HealInstanceMappings, M.REQUEST_WITHOUT_INSTANCE, lambda stage: request_again(stage, lost(stage))),
    Drift(HealInstanceMappings, M.REQUEST_WITHOUT_MAPPING, lambda stage: unmap(stage, requested(stage))),
    Drift(HealInstanceMappings, M.ROWS_WITHOUT_MAPPING, lambda stage: unmap(stage, lost(stage))),
    Drift(HealInstanceMappings, M.ELSEWHERE, lambda stage: in_cell(stage, "cell2", deleted(stage))),
    Drift(HealInstanceMappings, M.SEVERAL_CELLS, lambda stage: in_cell(stage, "cell2", server(stage))),
    Drift(HealInstanceMappings, M.ONLY_HIDDEN, lambda stage: stage.cloud.set_instance(deleted(stage), hidden=True)),
    Drift(MapInstances, U.UNMAPPED, lambda stage: unmap(stage, server(stage))),
    Drift(MapInstances, U.ALL_UNMAPPED, lambda stage: [unmap(stage, server(stage)) for _ in range(2)]),
    Drift(
        MapInstances,
        U.SEVERAL_CELLS,
        lambda stage: (
            instance := server(stage),
            in_cell(stage, "cell2", instance),
            unmap(stage, instance),
        ),
    ),
    Drift(MapInstances, U.WITHOUT_OWNER, without_owner),
    Drift(MapInstances, U.WITHOUT_RECORD, without_specification),
)
