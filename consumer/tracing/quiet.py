"""Limits the log of OpenTelemetry's packages, which log each attempt to send while the collector is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from consumer.text import one_line

LOG = logging.getLogger(__name__)
#: The logger above all loggers of the packages.
_PACKAGES = "opentelemetry"
#: Seconds between two lines of the log, and characters of a line: an answer of the collector may be long.
_EVERY, _LONGEST = 60.0, 300


class Quiet(logging.Handler):
    """Logs warnings and errors of OpenTelemetry's packages as warnings, at most one in a minute; drops the rest.

    :param clock: monotonic seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._logged_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        if now - self._logged_at >= _EVERY:
            self._logged_at = now
            text = one_line(record.getMessage())[:_LONGEST]
            LOG.warning("traces are lost ([tracing] endpoint); heals go on: %s", text)


class _List(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def quiet() -> None:
    """Let all loggers of OpenTelemetry's packages log through one :class:`Quiet`."""
    _log_through(Quiet())


@contextmanager
def heard() -> Iterator[list[str]]:
    """In a ``with`` block, put the warnings and errors of OpenTelemetry's packages in a list instead of the log."""
    logger = logging.getLogger(_PACKAGES)
    handlers, propagate = logger.handlers, logger.propagate
    lines: list[str] = []
    _log_through(_List(lines))
    try:
        yield lines
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def _log_through(handler: logging.Handler) -> None:
    logger = logging.getLogger(_PACKAGES)
    logger.handlers = [handler]
    logger.propagate = False
