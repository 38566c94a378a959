"""What the engine counts as it works, for whoever wants to know; this one does not.

The engine knows nothing of Prometheus: it tells a :class:`Meter` what happened, and :mod:`consumer.status` has one that
keeps count.
"""

from __future__ import annotations


class Meter:
    """Counts nothing: the meter of a process that nobody watches. Called by many threads."""

    def looked(self, handler: str, outcome: str, seconds: float) -> None:
        """One key was looked at.

        :param outcome: ``clean``, ``found``, ``refused``, ``waits``, ``healed``, ``failed``, ``parked``
        """

    def healed(self, handler: str, source: str, outcome: str, lag: float | None) -> None:
        """One heal ended.

        :param source: ``event``, ``sweep`` or ``operator``
        :param outcome: ``healed``, ``failed`` or ``conflict``
        :param lag: seconds since the notification was sent, where there was one
        """

    def found(self, handler: str, source: str) -> None:
        """A drift was found that had not been known, whatever became of it.

        :param source: ``event``, ``sweep`` or ``operator``; what sweeps find, events had missed
        """

    def beat(self, loop: str) -> None:
        """A loop that must go on for ever has gone round."""


def source(hint: str) -> str:
    """Return where a hint came from: ``event``, ``sweep`` or ``operator``.

    :param hint: as in the journal: an event's type, or the word of who asked
    """
    if hint in {"sweep", "operator"}:
        return hint
    return "event" if "." in hint else "operator"
