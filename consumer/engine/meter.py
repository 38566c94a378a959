"""The engine's counters; :mod:`consumer.status` implements them for Prometheus."""

from __future__ import annotations


class Meter:
    """Counts nothing; the base class. Many threads call it."""

    def inspected(self, handler: str, outcome: str, seconds: float) -> None:
        """Count an inspection with its heal.

        :param outcome: a value of :class:`consumer.engine.reconciler.Result`
        """

    def healed(self, handler: str, source: str, outcome: str, lag: float | None, weight: int = 1) -> None:
        """Count a heal that ended.

        :param outcome: ``healed``, ``failed``, ``conflict`` or ``refused``
        :param lag: seconds since the notification was sent; None without a notification
        """

    def found(self, handler: str, source: str, weight: int = 1) -> None:
        """Count a new finding. A sweep finds drift that no event reported."""

    def beat(self, loop: str) -> None:
        """Record a completed round of an endless loop."""


def source(hint: str) -> str:
    """Return the source of a hint: ``event``, ``sweep`` or ``operator``.

    :param hint: an event type, ``sweep``, ``start``, ``operator`` ...
    """
    if hint in {"sweep", "operator"}:
        return hint
    return "event" if "." in hint else "operator"
