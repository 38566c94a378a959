"""Ports in Neutron that deleted instances still occupy.

audit_ports  the handler
rules        whether the instance is deleted, and the fate of its ports
queries      SQL about the rows of a deleted instance
"""
