"""Finds and removes the objects that Octavia left behind."""
