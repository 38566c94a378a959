"""The undo of every heal on the safety page, run: the world is as it was before the heal."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

import pytest

from handlers.nova.allocations import port_allocations
from handlers.nova.allocations.missing_rules import Give, Problem
from tests.functional.nova.commands.operator import Operator
from tests.functional.nova.commands.syntax import commands
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
from tests.functional.nova.proofs.changes import set_up
from tests.functional.nova.proofs.drift import Drift
from tests.functional.nova.proofs.stage import Scene, Stage

DRIFTS = (
    *hosts.DRIFTS,
    *mappings.DRIFTS,
    *allocations.DRIFTS,
    *ports.DRIFTS,
    *migrations.DRIFTS,
    *bindings.DRIFTS,
    *devices.DRIFTS,
    *attachments.DRIFTS,
    *instances.DRIFTS,
    *info_cache.DRIFTS,
    *archive.DRIFTS,
)
#: heals that nothing reverses
FINAL = frozenset(
    {
        "audit_attachments-attachment-of-deleted-instance-archived",
        "audit_attachments-attachment-of-deleted-instance-connected",
        "audit_attachments-attachment-of-deleted-instance-reserved",
        "audit_bindings-binding-inactive",
        "audit_ports-port-of-deleted-instance-delete",
        "audit_stuck_instances-deletion-without-end",
        "heal_info_cache-cache-outdated",
        "purge-rows-to-purge",
    }
)
#: what the undo does not restore: nova-compute reports it again, or nothing needs the rows of deleted instances
LOST = {
    "audit_services-provider-left": {"placement.inventories", "placement.resource_provider_traits"},
    "archive_deleted_rows-rows-to-archive-cell": {"nova_api.instance_mappings", "nova_api.request_specs"},
}
#: columns and tables that every write changes
VOLATILE = frozenset({"id", "created_at", "updated_at", "generation", "revision_number", "root_provider_id"})
REGISTERS = frozenset({"placement.placement_aggregates"})
#: the rows of each table without volatile columns
Facts = dict[str, list[str]]


def facts(stage: Stage) -> Facts:
    found: Facts = {"neutron.ports": [_row(port) for port in stage.neutron.ports.values()]}
    found["cinder.attachments"] = [_row(one) for one in stage.cloud.cinder.attachments.values()]
    for name in ("nova_api", *stage.cloud.cells, "placement"):
        with closing(sqlite3.connect(stage.file(name), timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = connection.execute(f"SELECT * FROM {table}").fetchall()
                found[f"{name}.{table}"] = sorted(_row(dict(row)) for row in rows)
    return {table: rows for table, rows in found.items() if rows and table not in REGISTERS}


def _row(values: Mapping[str, object]) -> str:
    return str({name: value for name, value in sorted(values.items()) if name not in VOLATILE})


def heal(stage: Stage, empty: Scene, drift: Drift) -> tuple[Sequence[str], Facts, str]:
    """Make a drift and heal it; return its subjects, the facts before the heal, and the undo."""
    stage.show(empty)
    key, subjects = drift.build(stage)
    stage.options = {group: dict(values) for group, values in drift.options.items()}
    before = facts(stage)
    with stage.handler(drift.handler) as handler:
        [finding] = [one for one in handler.inspect(key) if one.problem == drift.problem and one.healable]
        healed = handler.heal(finding)
    assert all(drift.healed(stage, subject) for subject in subjects)
    return subjects, before, healed.undo


@pytest.mark.parametrize("drift", [drift for drift in DRIFTS if str(drift) not in FINAL], ids=str)
def test_the_undo_restores_the_state_before_the_heal(stage: Stage, empty: Scene, drift: Drift) -> None:
    subjects, before, undo = heal(stage, empty, drift)
    operator = Operator(stage)
    # The undo of an archived cell has a part for each table; the subjects are instances, which the first part restores.
    part = undo.split("-- for a row of")[0]
    for text in [part.replace("'UUID'", f"'{subject}'") for subject in subjects] if "'UUID'" in part else [part]:
        operator.follow(text)
    assert not any(drift.healed(stage, subject) for subject in subjects)
    after = facts(stage)
    lost = {table for table in {*before, *after} if before.get(table) != after.get(table)}
    assert lost == LOST.get(str(drift), set())


@pytest.mark.parametrize("drift", [drift for drift in DRIFTS if str(drift) in FINAL], ids=str)
def test_a_heal_without_undo_has_a_text_for_it(stage: Stage, empty: Scene, drift: Drift) -> None:
    undo = heal(stage, empty, drift)[2]
    assert undo.startswith("none: ")
    assert [one.missing for one in commands(undo)] == [() for _ in commands(undo)]


def test_the_command_for_a_deleted_port_makes_one_like_it(stage: Stage, empty: Scene) -> None:
    undo = heal(stage, empty, ports.DELETE)[2]
    [command] = commands(undo)
    Operator(stage).run(command)
    port = list(stage.neutron.ports.values())[-1]
    assert (port["network_id"], port["mac_address"]) == (stage.neutron.network["id"], "fa:16:3e:00:00:01")


def test_the_undo_for_an_instance_with_ports_frees_both(stage: Stage, empty: Scene) -> None:
    stage.show(empty)
    set_up(stage)
    port = stage.neutron.add(**{"binding:profile": {"allocation": {"group": "card"}, "other": 1}})
    instance = stage.cloud.boot("a")
    give = Give(Problem.MISSING, "", {}, {port: {"group": "card"}})
    Operator(stage).follow(f"openstack resource provider allocation delete {instance}{port_allocations.undo(give)}")
    assert not stage.cloud.allocation(instance)
    assert stage.neutron.ports[port]["binding:profile"] == {"other": 1}
