"""Allocations in Placement: resources that consumers have without right, and resources that instances lack.

- ``audit_allocations``: handler; takes back resources without right
- ``audit_migrations``: handler; moves resources from an ended migration to its instance
- ``heal_allocations``: handler; gives instances their entitlement
- ``excess_facts``, ``excess_rules``: facts and decisions about a consumer, for the two audits
- ``missing_facts``, ``missing_rules``, ``missing_sweep``: facts, decisions and suspects of heal_allocations
- ``moves``: where an instance lives, as its ended migrations prove it
- ``entitlement``: the resources of a flavor and an image
- ``batches``: several instances in one finding
- ``port_requests``, ``port_allocations``, ``candidates``: resources for ports, and the providers that give them
- ``nested``: which providers below and beside compute nodes a sweep reads
- ``placement_cache``: recent answers of Placement
- ``queries``: the SQL
"""
