"""Bindings of ports to hosts that an instance has left.

``audit_bindings``  the handler
``facts``           reads an instance's records in Nova
``rules``           decides about a port's bindings, without I/O
``queries``         the SQL
"""
