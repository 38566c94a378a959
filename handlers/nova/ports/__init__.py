"""Ports in Neutron that deleted instances still occupy.

audit_ports  the handler
rules        decides about an instance and its ports, without I/O
queries      SQL about the remains of a deleted instance
"""
