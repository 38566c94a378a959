"""Bindings of ports to hosts that an instance has left. The handler is ``audit_bindings``."""
