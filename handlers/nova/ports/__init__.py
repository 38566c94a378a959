"""Ports in Neutron that deleted instances still occupy. The handler is ``audit_ports``."""
