"""Tests against a real OpenStack control plane, which the test session starts itself."""
