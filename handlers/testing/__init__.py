"""What a handler's author needs to test it, inside this tree or outside.

``drive``  runs a handler as the engine does: sweep, inspect, heal, again until it is done
``setup``  makes the shared resources out of plain values, without a configuration file

A simulated Nova with real tables and the real Placement is :class:`handlers.nova.simulation.NovaSimulation`; the Noop driver
(:mod:`handlers.octavia.drivers.noop`) simulates the cloud of Octavia's handlers.
"""

from __future__ import annotations

from handlers.testing.drive import findings, heal_all, refusals, swept
from handlers.testing.setup import configured

__all__ = ["configured", "findings", "heal_all", "refusals", "swept"]
