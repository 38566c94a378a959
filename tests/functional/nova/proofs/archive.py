"""Rows that are archived, and archived rows that are purged."""

from __future__ import annotations

import sqlalchemy as sa

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.archive.purge import Purge
from tests.functional.nova.proofs.changes import (
    MAPPED_TO_CELL2,
    MAPPED_TO_NO_CELL,
    UNMAPPED,
    add_migration,
    alter,
    both,
    cut,
    drop,
    hold_on,
    migration,
    row_in,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Change, Changes, Drift
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import add_archived, long_ago, make_provider

_OPTIONS = {"audit": {"archive_deleted_rows_pause_seconds": 0, "archive_deleted_rows_after_days": 30}}
_API = "nova_api."
_MOVED = {"instances", "instance_extra", "instance_info_caches"}
_API_ROWS = frozenset({"nova_api.instance_mappings", "nova_api.request_specs"})


def _cell1(stage: Stage) -> Key:
    c = tables.cell_mappings.c
    with stage.cloud.api.connect() as connection:
        return Key("cell", str(connection.scalar(sa.select(c.uuid).where(c.name == "cell1"))))


def _old(stage: Stage) -> str:
    set_up(stage)
    with stage.cloud.ago(days=41):
        instance = stage.cloud.boot("a")
    with stage.cloud.ago(days=40):
        stage.cloud.delete(instance)
    return instance


def _due_cell(stage: Stage) -> tuple[Key, list[str]]:
    instance = _old(stage)
    return _cell1(stage), [instance]


def _due_instance(stage: Stage) -> tuple[Key, list[str]]:
    instance = _old(stage)
    return Key("instance", instance), [instance]


def _archived(stage: Stage, instance: str) -> bool:
    shadow = tables.shadow_instances
    return bool(stage.cloud._store.rows(stage.cloud.cells["cell1"], shadow, shadow.c.uuid == instance))


def _migration_holds(stage: Stage, instance: str) -> None:
    made = add_migration(stage, instance, stage.cloud.node("b"), "confirmed", source="a")
    hold_on("b")(stage, made)


def _holds_of(parent: str) -> Act:
    """Let the instance have resources of a nested or a lone provider."""

    def act(stage: Stage, instance: str) -> None:
        root = stage.cloud.node(parent).uuid if parent else None
        provider = make_provider(stage.cloud, "card", {"VGPU": 4}, root)
        stage.cloud.hold(instance, {provider: {"VGPU": 1}})

    return act


def _blocked(stage: Stage, instance: str) -> None:
    """Let a row that cannot be moved refer to the instance."""
    stage.execute(
        "cell1",
        sa.text(
            "CREATE TABLE share_mapping (id INTEGER PRIMARY KEY, instance_uuid VARCHAR(36) REFERENCES instances (uuid))"
        ),
    )
    stage.execute("cell1", sa.text(f"INSERT INTO share_mapping (instance_uuid) VALUES ('{instance}')"))


def _silent(host: str) -> Act:
    """Let a host have reported for the last time a day before the instance was deleted."""
    silence = alter(tables.services, "host", last_seen_up=long_ago(days=41))
    return lambda stage, instance: silence(stage, host)


def _part(act: Act) -> Change:
    """Return a change that only keeps the rows of nova_api."""
    return Change(act, spares=_API)


_PROOF: dict[str, Changes] = {
    "the mark of deletion of each row": {
        "it is not set": alter(tables.instances, "uuid", deleted=0),
    },
    "its date of deletion, older than ``archive_deleted_rows_after_days``": {
        "it is younger": alter(tables.instances, "uuid", deleted_at=long_ago(days=29)),
        "it is missing": alter(tables.instances, "uuid", deleted_at=None),
    },
    "for rows of nova_api also a mapping that names the cell": {
        "it names another cell": _part(MAPPED_TO_CELL2),
        "it names no cell": _part(MAPPED_TO_NO_CELL),
        "it is gone": _part(UNMAPPED),
    },
}
_CONTRADICTION: dict[str, Changes] = {
    "an allocation of the instance or of its migrations, of any provider": {
        "of a compute node": hold_on("a"),
        "of a nested provider": _holds_of("a"),
        "of a lone provider": _holds_of(""),
        "of a migration": _migration_holds,
    },
    "a host of the instance that has not reported since the deletion": {
        "the last one": _silent("a"),
        "one from which it was evacuated": both(migration("b", "done", "evacuation", source="b"), _silent("b")),
    },
    "a row that refers to it and cannot be moved": {"of a table without a shadow table": _blocked},
    "for rows of nova_api also a hidden row, a live row in another cell, or a cell that does not answer": {
        "a hidden row": _part(alter(tables.instances, "uuid", hidden=True)),
        "a live row": _part(row_in("cell2")),
        "a cell that does not answer": _part(cut("cell2")),
    },
}

ARCHIVE_CELL = Drift(
    ArchiveDeletedRows,
    "rows-to-archive",
    _due_cell,
    _archived,
    frozenset({f"cell1.{prefix}{name}" for name in _MOVED for prefix in ("", "shadow_")}) | _API_ROWS,
    options=_OPTIONS,
    state="cell",
    needs=("placement",),
    proof=_PROOF,
    contradiction=_CONTRADICTION,
)

ARCHIVE_INSTANCE = Drift(
    ArchiveDeletedRows,
    "rows-to-archive",
    _due_instance,
    _archived,
    ARCHIVE_CELL.changed,
    options=_OPTIONS,
    state="instance",
    swept=False,
    needs=("placement",),
    proof=_PROOF,
    contradiction=_CONTRADICTION,
)


# purge


def _purgeable(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    instance = "99999999-0000-4000-8000-000000000001"
    add_archived(stage.cloud, "cell1", instance)
    alter(tables.shadow_instances, "uuid", deleted_at=long_ago(days=90))(stage, instance)
    return _cell1(stage), [instance]


PURGE = Drift(
    Purge,
    "rows-to-purge",
    _purgeable,
    lambda stage, instance: not _archived(stage, instance),
    frozenset({"cell1.shadow_instances"}),
    options=_OPTIONS,
    needs=("placement",),
    proof={
        "the row in a shadow table": {"it is gone": drop(tables.shadow_instances, "uuid")},
        "its date, older than ``purge_after_days``": {
            "it is younger": alter(tables.shadow_instances, "uuid", deleted_at=long_ago(days=59)),
            "it is missing": alter(tables.shadow_instances, "uuid", deleted_at=None),
        },
    },
    contradiction={
        "a younger date": {"of yesterday": alter(tables.shadow_instances, "uuid", deleted_at=long_ago(days=1))},
    },
)

DRIFTS = (ARCHIVE_CELL, ARCHIVE_INSTANCE, PURGE)
