"""Amphorae that are preserved for examination.

``pool``       the preserved amphorae as Nova and Glance show them, their order, and their removal
``inventory``  the operator's commands: list, show, release, delete
"""
