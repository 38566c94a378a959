"""Holds: reasons outside stackmend why heals wait.

files        ``hold_file`` and ``hold_hosts_file``
prometheus   ``hold_query``
board        the holds of all sources, as last read; a source that cannot be read holds every heal
reader       the thread that reads the sources again, and makes the heals of lifted holds due

The gate is :mod:`consumer.engine.gates.hold`. Entry points (``stackmend.holds``) add sources, such as Nova's disabled services.
"""

from __future__ import annotations

from consumer.engine.holds.board import Board, Source, Standing

__all__ = ["Board", "Source", "Standing"]
