"""The Keystone roles that the calls of handlers need, by the policies that the services ship.

A cloud that writes policies of its own may get by with others.
"""

from __future__ import annotations

from handlers.base import Role, Verdict

#: ``placement/policies``: one of both for everything
PLACEMENT = Role(("service", "admin"), "Placement")
#: ``neutron/conf/policies/port.py``: ``get_port:resource_request``, and ports of other projects
PORTS = Role(("admin",), "Neutron, to see all of a port")
#: ``update_port:binding:profile``, by the policies that Neutron enforces since 2023.2; before, an administrator's
PROFILES = Role(("service",), "Neutron since 2023.2, to change binding:profile", Verdict.WARNING)
#: servers and images of another project, and Octavia's failovers
AMPHORAE = Role(("admin",), "Nova, Neutron, Glance and Octavia")
