"""The plan of a finding names the writes of its heal, and its concerns name the objects that an exemption can name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from consumer.journal import exemptions, history
from consumer.journal.database import Database
from handlers.base import Finding, Handler
from tests.functional.nova.proofs import (
    allocations,
    archive,
    attachments,
    bindings,
    devices,
    hosts,
    info_cache,
    instances,
    mappings,
    migrations,
    ports,
)
from tests.functional.nova.proofs.drift import Built, Drift
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.proofs.theatre import Theatre
from tests.sweeping import journal, swept
from tests.writes import recorded

FAMILIES = (
    allocations,
    mappings,
    hosts,
    ports,
    migrations,
    bindings,
    devices,
    attachments,
    instances,
    info_cache,
    archive,
)
DRIFTS = [drift for family in FAMILIES for drift in family.DRIFTS]


@pytest.fixture(scope="module", params=DRIFTS, ids=str)
def drift(request: pytest.FixtureRequest) -> Drift:
    """One drift after the other, so that each is built once."""
    one: Drift = request.param
    return one


@pytest.fixture(scope="module")
def theatre(stage: Stage) -> Theatre:
    return Theatre(stage)


@pytest.fixture
def built(theatre: Theatre, drift: Drift) -> Built:
    return theatre.perform(drift)


@pytest.fixture
def handler(stage: Stage, built: Built) -> Iterator[Handler]:
    with stage.handler(built.drift.handler) as handler:
        yield handler


def found(handler: Handler, built: Built) -> Finding:
    [finding] = [one for one in handler.inspect(built.key) if one.problem == built.drift.problem and one.healable]
    return finding


def writes(stage: Stage) -> dict[str, dict[str, str]]:
    names = {name: name if name == "nova_api" else f"cell:{name}" for name in ("nova_api", *stage.cloud.cells)}
    return {
        "services": {
            stage.cloud.placement.url: "placement",
            stage.neutron.url: "network",
            stage.compute.url: "compute",
            stage.cinder.url: "block-storage",
        },
        "databases": {str(stage.file(name)): label for name, label in names.items()},
    }


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with journal(tmp_path_factory.mktemp("journal")) as database:
        yield database


@pytest.fixture
def database(opened: Database) -> Iterator[Database]:
    yield opened
    exemptions.remove(opened, [one.id for one in exemptions.listing(opened)])


def test_the_heal_makes_the_planned_writes_and_no_others(stage: Stage, built: Built, handler: Handler) -> None:
    if built.drift in archive.DRIFTS:
        pytest.skip("the heal makes these writes in parts")
    finding = found(handler, built)
    with recorded(**writes(stage)) as lines:
        handler.heal(finding)
    assert finding.plan.split() == "\n".join(lines).split()
    assert all(built.drift.healed(stage, subject) for subject in built.subjects)


@pytest.mark.parametrize("one", archive.DRIFTS, ids=str)
def test_the_statements_of_a_plan_have_the_effect_of_the_heal(stage: Stage, theatre: Theatre, one: Drift) -> None:
    built = theatre.perform(one)
    with stage.handler(one.handler) as handler:
        finding = found(handler, built)
        handler.heal(finding)
        healed = stage.scene()
    stage.show(built.scene)
    for line in finding.plan.splitlines():
        if not line.startswith("--"):
            database, _, statement = line.removeprefix("cell:").partition(": ")
            uuids = ", ".join(f"'{uuid}'" for uuid in built.subjects)
            stage.execute(database, sa.text(statement.replace("UUIDS", uuids).replace(":", "\\:")))
    assert not stage.scene().differing(healed)
    assert healed.differing(built.scene) == one.changed


def names(stage: Stage, built: Built) -> dict[str, str]:
    """Return the objects that an operator would exempt, by kind."""
    subject = built.subjects[0]
    if built.drift in hosts.DRIFTS:
        return {"host": f"host:{subject}", "cell": "cell:cell2" if subject == "c" else "cell:cell1"}
    if built.key.kind == "cell" and built.drift in archive.DRIFTS:
        return {"cell": "cell:cell1"}
    project = stage.cloud.PROJECT
    return {"host": "host:a", "cell": "cell:cell1", "project": f"project:{project}", "instance": f"instance:{subject}"}


def test_a_finding_names_its_objects(stage: Stage, built: Built, handler: Handler) -> None:
    concerns = found(handler, built).concerns | {str(built.key)}
    expected = names(stage, built)
    assert set(expected.values()) <= concerns
    if "project" in expected:
        assert handler.concerned_kinds <= {one.partition(":")[0] for one in concerns}


@pytest.mark.parametrize("kind", ["host", "project", "cell", "instance"])
def test_an_exemption_withholds_the_heal_and_the_sweep_reports_it(
    stage: Stage, built: Built, handler: Handler, database: Database, kind: str
) -> None:
    named = names(stage, built).get(kind)
    if named is None:
        pytest.skip("the object belongs to none")
    if kind == "host":
        named = f"host:{named.removeprefix('host:').upper()}"
    exemptions.add(database, named, None, "alice", "memory test")
    [result] = swept(handler, built.key, database)
    assert (result.action, result.problem) == ("exempt", built.drift.problem)
    assert result.change == f"alice exempted {named}: memory test"
    assert not stage.scene().differing(built.scene)


def test_without_an_exemption_the_history_has_the_plan_of_the_heal(
    built: Built, handler: Handler, database: Database
) -> None:
    exemptions.add(database, "host:another", None, "alice", "memory test")
    plan = found(handler, built).plan
    assert "healed" in [one.action for one in swept(handler, built.key, database)]
    assert plan in [one.plan for one in history.listing(database, handler=handler.name)]
