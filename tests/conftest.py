"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# No test may fail on time: a slow machine is not a counterexample.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")
