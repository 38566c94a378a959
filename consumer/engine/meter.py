"""The engine's counters. The engine does not know Prometheus; :mod:`consumer.status` implements a :class:`Meter` for it."""

from __future__ import annotations


class Meter:
    """Counts nothing. Many threads call it."""

    def inspected(self, handler: str, outcome: str, seconds: float) -> None:
        """Count an inspection, with the heal that followed it.

        :param outcome: a value of :class:`consumer.engine.reconciler.Result`
        """

    def healed(self, handler: str, source: str, outcome: str, lag: float | None, weight: int = 1) -> None:
        """Count a heal that ended.

        :param source: ``event``, ``sweep`` or ``operator``
        :param outcome: ``healed``, ``failed``, ``conflict`` or ``refused``
        :param lag: seconds since the notification was sent, where there was one
        :param weight: how many objects it changed
        """

    def found(self, handler: str, source: str, weight: int = 1) -> None:
        """Count a new finding.

        :param source: ``event``, ``sweep`` or ``operator``; a sweep finds drift that no event reported
        """

    def beat(self, loop: str) -> None:
        """Record that an endless loop has completed a round."""


def source(hint: str) -> str:
    """Return where a hint came from: ``event``, ``sweep`` or ``operator``.

    :param hint: as in the journal: an event type, ``sweep``, ``start``, ``operator`` ...
    """
    if hint in {"sweep", "operator"}:
        return hint
    return "event" if "." in hint else "operator"
