"""Ports in Neutron that deleted instances still occupy.

===============  ==========================================
``audit_ports``  the handler
``rules``        the verdicts on instances and ports
``queries``      SQL about the rows of a deleted instance
===============  ==========================================
"""
