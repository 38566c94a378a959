"""Drift of ports in Neutron."""

from __future__ import annotations

import uuid

from handlers.nova.ports.audit_ports import AuditPorts, Problem
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import archive

HOUR = {"hours": 1}


def occupy(stage: Stage, instance: str) -> None:
    stage.neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id="a")


def deleted(stage: Stage) -> str:
    with stage.cloud.ago(**HOUR):
        instance = stage.cloud.boot("a")
        stage.cloud.delete(instance)
    occupy(stage, instance)
    return instance


DRIFTS = (
    Drift(AuditPorts, Problem.DELETED, deleted),
    Drift(AuditPorts, Problem.DELETED, lambda stage: archive(stage.cloud, deleted(stage)), "archived"),
    Drift(AuditPorts, Problem.UNKNOWN, lambda stage: occupy(stage, str(uuid.uuid4()))),
)
