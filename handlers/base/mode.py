from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    OFF = "off"
    AUDIT = "audit"
    ASK = "ask"
    HEAL = "heal"

    @property
    def heals(self) -> bool:
        """Whether a handler in this mode heals, with or without approval."""
        return self in (Mode.ASK, Mode.HEAL)
