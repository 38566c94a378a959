from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The verdict of ``stackmend check`` on one part of the deployment."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
