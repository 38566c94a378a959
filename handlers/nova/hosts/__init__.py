"""Compute hosts: mappings to cells, aggregates, services, providers.

``discover_hosts``       handler: map new hosts to their cells
``sync_aggregates``      handler: repair memberships in Placement's aggregates
``audit_services``       handler: delete leftovers of deleted services
``audit_providers``      handler: report nodes whose name another provider has
"""
