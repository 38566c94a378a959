"""Ports in Neutron that deleted instances still occupy.

audit_ports  the handler
rules        the verdict on an instance and the fate of its ports, without I/O
queries      SQL about the remains of a deleted instance
"""
