"""The interface that announces findings and heals; :mod:`consumer.engine.notifier` implements it."""

from __future__ import annotations

from handlers.base import Finding, Healed


class Announcer:
    """Base class of announcers; it publishes nothing."""

    def finding(self, handler: str, finding: Finding) -> None:
        """Publish ``stackmend.finding``: a new finding that no heal follows now."""

    def healed(self, handler: str, finding: Finding, healed: Healed) -> None:
        """Publish ``stackmend.heal.end``: a heal succeeded."""

    def failed(self, handler: str, finding: Finding, error: str) -> None:
        """Publish ``stackmend.heal.error``: a heal failed."""

    def close(self) -> None:
        """Stop; announcements that the broker does not take soon are lost."""
