"""What every log line goes through: passwords of URLs are masked, those in tracebacks and in JSON too.

Texts of our own hold none. But a traceback ends in whatever some library has put into its exception, and that is printed
by oslo.log, not by us.
"""

from __future__ import annotations

import logging

from consumer.text import redacted


class Masked(logging.Formatter):
    """Formats as another formatter does, and masks what came out.

    :param inner: the formatter that oslo.log chose: text, JSON, syslog
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        return redacted(self._inner.format(record))


def mask_secrets() -> None:
    """Have everything masked that the handlers there are write; once, after logging was set up."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Masked(handler.formatter or logging.Formatter()))
