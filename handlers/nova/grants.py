"""What the heals of each handler write into Nova's databases, by which an account's rights are measured.

A handler that is not listed writes into no database: it works by APIs. Looking needs SELECT on both kinds of database, for
every handler; see :mod:`handlers.grants`.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.grants import WHOLE, Needs

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
