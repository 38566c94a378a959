"""Compute hosts: mappings to cells, aggregates, services, providers.

``discover_hosts``       handler: map new hosts to their cells
``discovery_rules``      decides whether a host's mapping is right
``sync_aggregates``      handler: repair memberships in Placement's aggregates
``aggregate_rules``      decides about memberships in aggregates
``audit_services``       handler: delete leftovers of deleted services
``leftover_rules``       decides about leftovers of deleted services
``audit_providers``      handler: report nodes whose name another provider has
``queries``              SQL about hosts
"""
