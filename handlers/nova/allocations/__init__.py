"""Allocations in Placement: resources that consumers have without right, and resources that instances lack.

- ``audit_allocations``: the handler that takes back resources without right
- ``audit_migrations``: the handler that moves resources from an ended migration to its instance
- ``heal_allocations``: the handler that gives instances their entitlement
- ``excess_*``: facts and decisions of the two audits
- ``missing_*``: facts, decisions and suspects of heal_allocations
- ``moves``: the places of an instance that its ended migrations prove
- ``entitlement``: the resources of a flavor and an image
- ``batches``: several instances in one finding
- ``port_requests``, ``port_allocations``, ``candidates``: resources for ports and their providers
- ``nested``: the providers below and beside compute nodes, in turn
- ``placement_cache``: recent answers of Placement
- ``queries``: the SQL statements
"""
