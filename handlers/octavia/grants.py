"""What each handler has to be allowed: what its heals write into Octavia's database, and which roles its calls to APIs take.

A handler that is not listed writes there nothing: it works by APIs, as all of them do. A row that is only locked (SELECT ...
FOR UPDATE) needs UPDATE, too, in MySQL and PostgreSQL. ``amphora_member_port`` is there since Octavia 16.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.checks.grants import Needs
from handlers.checks.roles import AMPHORAE, Calls

_DELETE = frozenset({"DELETE"})
_UPDATE = frozenset({"UPDATE"})

OCTAVIA: Mapping[str, Needs] = {
    "failed_amphora": {"amphora": _UPDATE, "amphora_health": _UPDATE, "load_balancer": _UPDATE},
    "deactivated_amphorae": {
        "amphora": _UPDATE,
        "amphora_health": _UPDATE | _DELETE,
        "amphora_member_port": _DELETE,
    },
    "stuck_load_balancers": {"amphora": _UPDATE, "load_balancer": _UPDATE},
}

#: of APIs, by handler
ROLES: Mapping[str, Calls] = dict.fromkeys(
    ("failed_amphora", "deactivated_amphorae", "spare_pool", "stuck_load_balancers"), Calls((AMPHORAE,))
)
