"""Allocations in Placement: resources that consumers have without right, and resources that instances lack.

- ``audit_*``: two handlers; ``excess_*`` has their facts and decisions
- ``heal_allocations``: the handler that gives resources; ``missing_*`` has its facts, decisions and suspects
- ``moves``: the places that ended migrations prove
- ``entitlement``: the resources of a flavor and an image
- ``batches``: several instances in one finding
- ``port_*``, ``candidates``: resources for ports
- ``nested``: providers below and beside compute nodes
- ``placement_cache``: recent answers of Placement
"""
