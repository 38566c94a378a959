"""Bindings of ports to hosts on which, by Nova's records, the instance does not live. The handler is ``audit_bindings``."""
