"""Drift of migrations that have not ended."""

from __future__ import annotations

from handlers.nova.migrations.audit_stuck_migrations import AuditStuckMigrations
from handlers.nova.migrations.rules import Problem
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import record_move


def moving(stage: Stage) -> str:
    with stage.cloud.ago(hours=5):
        instance = stage.cloud.boot("a")
    record_move(stage.cloud, instance, "b", "running", "live-migration", hours=5)
    return instance


def deleted(stage: Stage) -> None:
    instance = moving(stage)
    with stage.cloud.ago(hours=4):
        stage.cloud.delete(instance)


def superseded(stage: Stage) -> None:
    instance = moving(stage)
    record_move(stage.cloud, instance, "a", "completed", "live-migration", hours=4)


DRIFTS = (
    Drift(AuditStuckMigrations, Problem.OF_DELETED, deleted),
    Drift(AuditStuckMigrations, Problem.SUPERSEDED, superseded),
    Drift(AuditStuckMigrations, Problem.WITHOUT_END, moving),
)
