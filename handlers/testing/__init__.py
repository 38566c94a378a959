"""Tools for the tests of handlers.

``drive``  runs a handler as stackmend does: sweep, inspect and heal until nothing healable is left
``setup``  makes the shared resources from plain values

Simulated clouds: :class:`handlers.nova.simulation.NovaSimulation` and :mod:`handlers.octavia.drivers.noop`.
"""

from __future__ import annotations

from handlers.testing.drive import findings, heal_all, refusals, swept
from handlers.testing.setup import configured

__all__ = ["configured", "findings", "heal_all", "refusals", "swept"]
