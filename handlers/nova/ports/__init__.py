"""Ports in Neutron that deleted instances still occupy."""
