"""Drift of bindings of ports in Neutron."""

from __future__ import annotations

from handlers.nova.bindings.audit_bindings import AuditBindings
from handlers.nova.bindings.rules import Problem
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import record_move


def moved(stage: Stage, bound: str) -> str:
    """Live-migrate an instance from b to a; return its port, bound to this host."""
    with stage.cloud.ago(hours=3):
        instance = stage.cloud.boot("b")
        stage.cloud.set_instance(instance, host="a", node="a")
    record_move(stage.cloud, instance, "a", "completed", "live-migration", hours=2)
    return stage.neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id=bound)


DRIFTS = (
    Drift(AuditBindings, Problem.INACTIVE, lambda stage: stage.neutron.bind(moved(stage, "a"), "b")),
    Drift(AuditBindings, Problem.ELSEWHERE, lambda stage: moved(stage, "b")),
)
