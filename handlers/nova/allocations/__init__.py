"""Allocations in Placement: takes resources from consumers without a right to them, and gives instances their entitlement.

An entitlement is the resources that an instance should have.

Handlers: audit_allocations, audit_migrations, heal_allocations.
For both audits: consumers, excess_facts, excess_rules. For audit_allocations: shared_looks.
For heal_allocations: missing_facts, missing_rules, missing_sweep, batches, grants.
Resources for ports: port_requests, port_allocations, candidates.
For several: entitlement, moves, nested, placement_cache, queries.
"""
