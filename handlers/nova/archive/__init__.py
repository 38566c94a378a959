"""Deleted rows leave the live tables of a cell, and later its shadow tables."""
