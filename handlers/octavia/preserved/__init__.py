"""Amphorae that stackmend preserves for examination.

``pool``       reads the preserved amphorae from Nova and Glance, orders and removes them
``inventory``  the operator's commands: list, show, release, delete
"""
