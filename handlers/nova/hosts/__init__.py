"""Compute hosts: mappings to cells, aggregates, services, providers.

=======================  ==============================
handler                  verdicts
=======================  ==============================
``discover_hosts``       ``discovery_rules``
``sync_aggregates``      ``aggregate_rules``
``audit_services``       ``leftover_rules``
``audit_providers``
=======================  ==============================
"""
