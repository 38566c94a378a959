from __future__ import annotations

from handlers.base import Role, Verdict

#: ``placement/policies``: either of them for every call
PLACEMENT = Role(("service", "admin"), "Placement")
#: ``neutron/conf/policies/port.py``: ``get_port:resource_request``, and ports of other projects
PORTS = Role(("admin",), "Neutron, to see all of a port")
#: ``update_port:binding:profile``, since Neutron 2023.2; before that, the role of an administrator is enough
PROFILES = Role(("service",), "Neutron since 2023.2, to change binding:profile", Verdict.WARNING)
#: ``neutron/conf/policies/port_bindings.py``: ``delete_port_binding``; before 2023.2, an administrator's role is enough
BINDINGS = Role(("service",), "Neutron since 2023.2, to delete bindings of ports", Verdict.WARNING)
#: ``nova/policies/servers.py``: servers of other projects
SERVERS = Role(("admin",), "Nova, to delete servers of other projects")
#: ``nova/policies/server_external_events.py``; in older releases, an administrator's role is enough
EVENTS = Role(("service",), "newer releases of Nova, to send external events", Verdict.WARNING)
#: servers and images of another project, and Octavia's failovers
AMPHORAE = Role(("admin",), "Nova, Neutron, Glance and Octavia")
#: ``cinder/policies/attachments.py``: attachments of other projects
ATTACHMENTS = Role(("admin",), "Cinder, for attachments of other projects")
