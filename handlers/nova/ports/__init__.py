"""Ports in Neutron that deleted instances still occupy.

audit_ports  the handler
rules        decides whether an instance is deleted, and what to do with its ports
queries      SQL about the rows of a deleted instance
"""
