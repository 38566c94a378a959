"""The calls to a cloud."""
