"""The plan of a finding names the writes of its heal, and its concerns name the objects that an exemption can name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers.access.cloud import Service
from handlers.base import Finding, Handler
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from tests.functional.nova.proofs import allocations
from tests.functional.nova.proofs.drift import Drift
from tests.functional.nova.proofs.stage import Scene, Stage

PLANNED: tuple[type[Handler], ...] = (AuditAllocations, AuditMigrations)
DRIFTS = [drift for drift in allocations.DRIFTS if drift.handler in PLANNED]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the writes that reach the APIs, as lines of a plan."""
    lines: list[str] = []
    write = Service.write

    def record(self: Service, method: str, url: str, **arguments: Any) -> Any:
        headers = [f"{name}: {value}" for name, value in (arguments.get("headers") or {}).items()]
        body = [json.dumps(arguments["json"], sort_keys=True)] if "json" in arguments else []
        lines.append(" ".join([method, url, *headers, *body]))
        return write(self, method, url, **arguments)

    monkeypatch.setattr(Service, "write", record)
    return lines


def found(handler: Handler, stage: Stage, drift: Drift) -> tuple[Finding, list[str]]:
    key, subjects = drift.build(stage)
    [finding] = [one for one in handler.inspect(key) if one.problem == drift.problem and one.healable]
    return finding, list(subjects)


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_the_heal_makes_the_planned_writes_and_no_others(
    stage: Stage, empty: Scene, sent: list[str], drift: Drift
) -> None:
    stage.show(empty)
    with stage.handler(drift.handler) as handler:
        finding, subjects = found(handler, stage, drift)
        handler.heal(finding)
    assert finding.plan.splitlines() == sent
    assert all(drift.healed(stage, subject) for subject in subjects)


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_a_finding_names_its_instance_and_the_kinds_that_its_handler_declares(
    stage: Stage, empty: Scene, drift: Drift
) -> None:
    stage.show(empty)
    with stage.handler(drift.handler) as handler:
        finding, [instance] = found(handler, stage, drift)
    assert f"instance:{instance}" in finding.concerns
    assert f"project:{stage.cloud.PROJECT}" in finding.concerns
    assert drift.handler.concerned_kinds <= {one.partition(":")[0] for one in finding.concerns}


def test_a_moved_allocation_names_host_and_cell(stage: Stage, empty: Scene) -> None:
    stage.show(empty)
    drift = allocations.MIGRATION_HOLDS
    with stage.handler(drift.handler) as handler:
        finding, _ = found(handler, stage, drift)
    assert {"host:a", "cell:cell1"} <= finding.concerns
