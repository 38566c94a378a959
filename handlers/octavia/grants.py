"""What the heals of each handler write into Octavia's database, by which an account's rights are measured.

A handler that is not listed writes there nothing: it works by APIs. A row that is only locked (SELECT ... FOR UPDATE) needs
UPDATE, too, in MySQL and PostgreSQL. ``amphora_member_port`` is there since Octavia 16.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.grants import Needs

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
