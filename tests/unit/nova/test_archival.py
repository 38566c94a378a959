from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from handlers.base import Finding, Key
from handlers.nova.archive import shadow_tables, undo
from handlers.nova.archive.cell_handler import Scope
from handlers.nova.archive.schema import Schema

BEFORE = datetime(2026, 1, 31)


def table(meta: sa.MetaData, name: str, *columns: sa.Column[Any], shadow: bool = True, soft: bool = True) -> sa.Table:
    deleted: list[sa.Column[Any]] = (
        [sa.Column("deleted", sa.Integer), sa.Column("deleted_at", sa.DateTime)] if soft else []
    )
    made = sa.Table(name, meta, sa.Column("id", sa.Integer, primary_key=True), *deleted, *columns)
    if shadow:
        sa.Table(f"shadow_{name}", meta, *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in made.c))
    return made


def refers(column: str, target: str, name: str | None = None) -> sa.Column[Any]:
    return sa.Column(column, sa.Integer, sa.ForeignKey(target, name=name))


@pytest.fixture
def meta() -> sa.MetaData:
    made = sa.MetaData()
    table(made, "alembic_version", shadow=False, soft=False)
    table(made, "events", refers("action_id", "actions.id"))
    table(made, "actions", refers("instance_uuid", "instances.uuid"))
    table(made, "instances", sa.Column("uuid", sa.String(36), unique=True))
    table(made, "share_mapping", refers("instance_uuid", "instances.uuid", "fk_share"), shadow=False, soft=False)
    table(made, "aaa_services")
    table(made, "task_log", sa.Column("updated_at", sa.DateTime))
    table(made, "cells")
    table(made, "tags", shadow=False)
    table(made, "odd", sa.Column("deleted", sa.String(36)), sa.Column("deleted_at", sa.DateTime), soft=False)
    return made


def names(tables: list[sa.Table]) -> list[str]:
    return [table.name for table in tables]


def sql(clause: Any) -> str:
    return " ".join(str(clause.compile(dialect=postgresql.dialect())).split())  # type: ignore[no-untyped-call]


def test_what_is_archived_and_in_which_order(meta: sa.MetaData) -> None:
    schema = Schema(meta)
    assert names(schema.archivable()) == ["instances", "aaa_services", "actions", "events"]
    assert "task_log" in names(schema.archivable(task_log=True))


def test_a_tree_has_all_that_refers_to_its_root(meta: sa.MetaData) -> None:
    schema = Schema(meta)
    below = names(schema.below(meta.tables["instances"]))
    assert sorted(below) == ["actions", "events", "share_mapping"]
    assert below.index("actions") < below.index("events"), "parents first; they are moved in reverse"
    assert not schema.below(meta.tables["aaa_services"])
    [blocker] = schema.blockers(meta.tables["instances"])
    assert (blocker.constraint, blocker.child.name) == ("fk_share", "share_mapping")
    [unnamed] = schema.parents(meta.tables["events"])
    assert unnamed.constraint == "events.action_id"


def test_what_is_due(meta: sa.MetaData) -> None:
    schema = Schema(meta)
    actions = sql(schema.due(meta.tables["actions"], BEFORE))
    assert "actions.deleted != " in actions
    assert "actions.deleted_at < " in actions
    assert "NOT (EXISTS (SELECT" in actions, "what belongs to a deleted row goes with it"
    assert "instances_1.deleted != " in actions
    instances = sql(schema.due(meta.tables["instances"], BEFORE))
    assert "share_mapping.instance_uuid = instances.uuid" in instances
    assert "deleted" not in sql(schema.due(meta.tables["task_log"], BEFORE))


def test_the_date_by_which_archived_rows_grow_old() -> None:
    meta = sa.MetaData()

    def column(name: str, *dates: str) -> str | None:
        columns = [sa.Column(date, sa.DateTime) for date in dates]
        found = shadow_tables.purge_date(sa.Table(name, meta, sa.Column("id", sa.Integer, primary_key=True), *columns))
        return None if found is None else found.name

    every = ("created_at", "updated_at", "deleted_at")
    assert column("shadow_instances", *every) == "deleted_at"
    assert column("shadow_instance_actions", *every) == "created_at"
    assert column("shadow_instance_actions_events", *every) == "created_at"
    assert column("shadow_task_log", *every) == "updated_at"
    assert column("shadow_one", "created_at", "updated_at") == "updated_at"
    assert column("shadow_two", "created_at") == "created_at"
    assert column("shadow_three") is None
    keyless = sa.Table("shadow_four", meta, sa.Column("deleted_at", sa.DateTime))
    assert keyless not in [table for table, _ in shadow_tables.purgeable(Schema(meta), BEFORE)]
    assert len(shadow_tables.purgeable(Schema(meta), BEFORE)) == 6


def test_the_evidence_of_a_day_can_be_read_back() -> None:
    scope = Scope("cell", date(2026, 1, 31))
    finding = Finding(Key("cell", "cell"), "rows-to-archive", "", scope.to_json())
    assert (Scope.of(finding), scope.moment) == (scope, BEFORE)


def test_undo_restores_parents_first_and_empties_the_shadow_tables_children_first(meta: sa.MetaData) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        text = undo.of_instance(connection, Schema(meta), "1234", "cell:cell1")
    places = [line.split(" ")[2] for line in text.splitlines()[1:]]
    assert places == ["instances", "actions", "events", "shadow_events", "shadow_actions", "shadow_instances"]
    assert "WHERE shadow_actions.instance_uuid = '1234'" in text
    assert "action_id IN (SELECT shadow_actions.id FROM shadow_actions WHERE" in text
