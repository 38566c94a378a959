"""Allocations in Placement: takes resources from consumers without a right to them, and gives instances their entitlement.

- ``audit_allocations``: handler; takes back resources that a consumer has no right to
- ``audit_migrations``: handler; moves resources from an ended migration to its instance
- ``heal_allocations``: handler; gives instances their entitlement
- ``consumers``: facts and verdicts of the two audits
- ``excess_facts``, ``excess_rules``: read the facts for the audits, and decide
- ``missing_facts``, ``missing_rules``, ``missing_sweep``: facts, decisions and suspects for ``heal_allocations``
- ``moves``: on which node an instance runs, proved by ended migrations
- ``entitlement``: the resources of a flavor and an image
- ``batches``: puts several instances into one finding
- ``port_requests``, ``port_allocations``, ``candidates``: resources for ports, and the providers that give them
- ``nested``: which nested and sharing providers a sweep reads
- ``placement_cache``: recent answers of Placement
- ``queries``: the SQL
"""
