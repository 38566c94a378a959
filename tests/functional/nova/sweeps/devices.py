"""Drift of one-time-use PCI devices."""

from __future__ import annotations

from handlers.nova.devices.release_devices import ReleaseDevices
from handlers.nova.devices.rules import Problem
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift


def reserved(stage: Stage) -> str:
    """Reserve a device by hand."""
    provider = stage.cloud.add_device("a", "0000:81:00.0")
    stage.cloud.reserve_device(provider, 1)
    return provider


def left(stage: Stage) -> None:
    with stage.cloud.ago(hours=3):
        provider = stage.cloud.add_device("a", "0000:81:00.0")
        instance = stage.cloud.boot("a")
        stage.cloud.use_device(instance, provider)
        stage.cloud.delete(instance)
    stage.cloud.heartbeat("a")


DRIFTS = (
    Drift(ReleaseDevices, Problem.LEFT, left),
    Drift(ReleaseDevices, Problem.UNEXPLAINED, reserved),
)
