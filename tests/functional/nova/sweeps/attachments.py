"""Drift of attachments in Cinder."""

from __future__ import annotations

import uuid

from handlers.nova.attachments.audit_attachments import AuditAttachments
from handlers.nova.attachments.rules import Problem
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import archive


def leaked(stage: Stage) -> str:
    stage.cloud.heartbeat("a")
    with stage.cloud.ago(hours=3):
        instance = stage.cloud.boot("a")
        stage.cloud.attach_volume(instance)
        stage.cloud.delete(instance, leak_attachments=True)
    return instance


def strange(stage: Stage) -> None:
    stage.cinder.reserve(stage.cinder.create_volume(), str(uuid.uuid4()))


def dangling(stage: Stage) -> None:
    """Delete the volume of a live instance; another volume stays."""
    cinder = stage.cinder
    with stage.cloud.ago(hours=3):
        instance = stage.cloud.boot("a")
        attachment = stage.cloud.attach_volume(instance)
        stage.cloud.attach_volume(stage.cloud.boot("b"))
    cinder.delete_volume(cinder.attachments[attachment]["volume_id"])


DRIFTS = (
    Drift(AuditAttachments, Problem.DELETED, leaked),
    Drift(AuditAttachments, Problem.DELETED, lambda stage: archive(stage.cloud, leaked(stage)), "archived"),
    Drift(AuditAttachments, Problem.UNKNOWN, strange),
    Drift(AuditAttachments, Problem.VOLUME_GONE, dangling),
)
