"""Amphorae that stackmend preserves for examination."""
