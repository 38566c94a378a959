"""Drift of instances with a task or a build."""

from __future__ import annotations

from handlers.nova.instances.audit_stuck_instances import AuditStuckInstances
from handlers.nova.instances.rules import Problem
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift


def with_task(stage: Stage, task: str) -> None:
    with stage.cloud.ago(hours=3):
        stage.cloud.set_instance(stage.cloud.boot("a"), task_state=task)
    stage.cloud.heartbeat("a")


def without_host(stage: Stage) -> None:
    with stage.cloud.ago(hours=3):
        instance = stage.cloud.request()
        stage.cloud.create_instance(instance, "cell1")
        stage.cloud.map_instance(instance, "cell1")


DRIFTS = (
    Drift(AuditStuckInstances, Problem.DELETING, lambda stage: with_task(stage, "deleting")),
    Drift(AuditStuckInstances, Problem.BUILDING, without_host),
    Drift(AuditStuckInstances, Problem.TASK, lambda stage: with_task(stage, "resize_finish")),
)
