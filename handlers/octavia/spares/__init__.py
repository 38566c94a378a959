"""Placeholders that make room for failovers."""
