"""Allocations in Placement: those without right, and those that instances lack.

- ``audit_*``: two handlers, with ``excess_*``
- ``heal_allocations``: one handler, with ``missing_*``
- ``moves``: the places that ended migrations prove
- ``entitlement``: the resources of a flavor and an image
- ``batches``: several instances in one finding
- ``port_*``, ``candidates``: resources for ports
- ``nested``: providers below and beside compute nodes
- ``placement_cache``: recent answers
"""
