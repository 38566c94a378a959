from __future__ import annotations


class Meter:
    """Base class of meters; it counts nothing. Implementations must be thread-safe."""

    def inspected(self, handler: str, outcome: str, seconds: float) -> None:
        """Count an inspection; ``seconds`` include a heal that followed.

        :param outcome: a value of :class:`consumer.engine.reconciler.Result`
        """

    def healed(self, handler: str, source: str, outcome: str, lag: float | None, weight: int = 1) -> None:
        """Count a heal that ended.

        :param outcome: ``healed``, ``failed``, ``conflict`` or ``refused``
        :param lag: seconds from the notification to the end of a successful heal; None without a notification or success
        """

    def found(self, handler: str, source: str, weight: int = 1) -> None:
        """Count a new finding."""

    def beat(self, loop: str) -> None:
        """Record that a thread with an endless loop is alive."""


def source(hint: str) -> str:
    """Return ``event``, ``sweep`` or ``operator`` for the source of a hint; other sources count as ``operator``."""
    if hint in {"sweep", "operator"}:
        return hint
    return "event" if "." in hint else "operator"
