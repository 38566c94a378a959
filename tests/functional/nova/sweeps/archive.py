"""Rows that wait for archiving or for the purge."""

from __future__ import annotations

import sqlalchemy as sa

from handlers.nova.archive import archive_deleted_rows, purge
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.archive.purge import Purge
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import archive

A, P = archive_deleted_rows.Problem, purge.Problem


def old(stage: Stage, leak_allocation: bool = False) -> str:
    with stage.cloud.ago(days=70):
        instance = stage.cloud.boot("a")
        stage.cloud.delete(instance, leak_allocation=leak_allocation)
    return instance


def blocked(stage: Stage) -> None:
    """Refer to a deleted instance from a table without a shadow table."""
    instance = old(stage)
    stage.execute("cell1", sa.text("CREATE TABLE share_mapping (instance_uuid VARCHAR(36) REFERENCES instances(uuid))"))
    stage.execute("cell1", sa.text("INSERT INTO share_mapping VALUES (:instance)").bindparams(instance=instance))


DRIFTS = (
    Drift(ArchiveDeletedRows, A.DUE, old),
    Drift(ArchiveDeletedRows, A.DUE, lambda stage: old(stage, leak_allocation=True), "still holding resources"),
    Drift(ArchiveDeletedRows, A.UNARCHIVABLE, blocked),
    Drift(Purge, P.DUE, lambda stage: archive(stage.cloud, old(stage))),
)
