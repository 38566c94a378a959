"""Compute hosts: mappings to cells, aggregates, services, providers.

=======================  =========================================================
``discover_hosts``       handler: map new hosts to their cells
``discovery_rules``      its verdicts
``sync_aggregates``      handler: add hosts to Placement's aggregates
``aggregate_rules``      its verdicts
``audit_services``       handler: delete leftovers of deleted services
``leftover_rules``       its verdicts
``audit_providers``      handler: report nodes whose name another provider has
``queries``              the SQL
=======================  =========================================================
"""
