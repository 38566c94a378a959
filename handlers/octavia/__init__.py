"""Octavia's drift."""
