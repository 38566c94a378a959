"""Holds: reasons outside stackmend why heals wait.

``board`` keeps the holds of all sources: ``files`` (``hold_file``, ``hold_hosts_file``), ``prometheus`` (``hold_query``) and
entry points (``stackmend.holds``), such as Nova's disabled services. ``reader`` is the thread that reads the sources.
"""

from __future__ import annotations

from consumer.engine.holds.board import Board, Source, Standing

__all__ = ["Board", "Source", "Standing"]
