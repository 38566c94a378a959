"""Compute hosts: mappings to cells, aggregates, services, providers.

=======================  =====================================================================
``discover_hosts``       handler: map new hosts to their cells
``discovery_rules``      whether a host's mapping is right
``sync_aggregates``      handler: add the hosts of Nova's aggregates to Placement's
``aggregate_rules``      which providers must join or leave an aggregate
``audit_services``       handler: delete mappings and providers that deleted services left
``leftover_rules``       decides about such mappings and providers
``audit_providers``      handler: report compute nodes whose name another provider has
``queries``              the SQL
=======================  =====================================================================
"""
