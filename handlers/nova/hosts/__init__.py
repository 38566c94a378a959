"""Compute hosts: mappings to cells (``discover_hosts``), aggregates (``sync_aggregates``), leftovers of deleted services
(``audit_services``), and wrong providers of nodes (``audit_providers``).
"""
