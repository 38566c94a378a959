"""What each handler has to be allowed: what its heals write into Nova's databases, and which roles its calls to APIs take.

A handler that is not listed writes into no database, or calls no API. Looking needs SELECT on both kinds of database, for
every handler; see :mod:`handlers.checks.grants` and :mod:`handlers.checks.roles`.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.checks.grants import WHOLE, Needs
from handlers.checks.roles import PLACEMENT, PORTS, PROFILES, Calls

_DELETE = frozenset({"DELETE"})
_INSERT = frozenset({"INSERT"})
_UPDATE = frozenset({"UPDATE"})

#: in nova_api, by handler
API: Mapping[str, Needs] = {
    "discover_hosts": {"host_mappings": _INSERT},
    "audit_services": {"host_mappings": _DELETE},
    "map_instances": {"instance_mappings": _INSERT},
    "heal_instance_mappings": {
        "instance_mappings": _UPDATE | _DELETE,
        "build_requests": _DELETE,
        "request_specs": _DELETE,
        "instance_group_member": _DELETE,
    },
    "archive_deleted_rows": {
        "instance_mappings": _DELETE,
        "request_specs": _DELETE,
        "instance_group_member": _DELETE,
    },
}

#: in each cell, by handler. Which tables are archived is read from the schema, and differs between releases
CELL: Mapping[str, Needs] = {
    "discover_hosts": {"compute_nodes": _UPDATE},
    "archive_deleted_rows": {WHOLE: _INSERT | _DELETE},
    "purge": {WHOLE: _DELETE},
}

#: of APIs, by handler
ROLES: Mapping[str, Calls] = {
    "sync_aggregates": Calls((PLACEMENT,)),
    "heal_allocations": Calls((PLACEMENT, PORTS), (PROFILES,)),
    "audit_allocations": Calls((PLACEMENT,)),
    "audit_migrations": Calls((PLACEMENT,)),
    "audit_ports": Calls((PORTS,), (PROFILES,)),
    "audit_providers": Calls((PLACEMENT,)),
    "audit_services": Calls((PLACEMENT,)),
    "archive_deleted_rows": Calls((PLACEMENT,)),
}
