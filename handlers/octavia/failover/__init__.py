"""Replaces failed amphorae, and preserves some of them."""
