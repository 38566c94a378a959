"""Masks passwords of URLs in log lines, tracebacks and JSON included."""

from __future__ import annotations

import logging

from consumer.text import redacted


class Masked(logging.Formatter):
    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._inner.format(record))


def mask_secrets() -> None:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Masked(handler.formatter or logging.Formatter()))
