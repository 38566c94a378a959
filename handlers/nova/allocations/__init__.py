"""Allocations in Placement: takes resources from consumers without a right to them, and gives instances their entitlement.

- ``audit_allocations``: handler; takes back resources that a consumer has no right to
- ``audit_migrations``: handler; moves resources from an ended migration to its instance
- ``consumers``, ``excess_facts``, ``excess_rules``: facts and verdicts of both audits
- ``heal_allocations``: handler; gives instances their entitlement
- ``missing_facts``, ``missing_rules``, ``missing_sweep``, ``batches``: facts, decisions, suspects and findings of
  ``heal_allocations``
- ``grants``: writes the new allocations
- ``moves``: on which node an instance runs
- ``entitlement``: the resources of a flavor and an image
- ``port_requests``, ``port_allocations``, ``candidates``: resources for ports, and their providers
- ``nested``: which nested and sharing providers a sweep reads
- ``placement_cache``, ``shared_looks``: recent answers of Placement, and facts for several inspections
"""
