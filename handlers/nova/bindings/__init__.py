"""Bindings of ports to hosts where, by Nova's records, the instance does not live. The handler is ``audit_bindings``."""
