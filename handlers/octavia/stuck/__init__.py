"""Frees load balancers that are stuck in PENDING_*, and restores their number of amphorae.

``stuck_load_balancers``  the handler
``problems``              the problems, and the options
``freeing``               sets a load balancer to ERROR, for a failover or for its owner
"""
