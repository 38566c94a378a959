"""The schemas of Nova's databases that stackmend knows: Nova 25 (Yoga) to 34.

Source: ``nova/db/{api,main}/migrations/versions`` of these releases.
"""

from __future__ import annotations

RELEASES = "Nova 25 (Yoga) to 34"

#: nova_api: the revision of Yoga to 2023.1, and that of 2023.2 and later
API = frozenset({"b30f573d3377", "cdeec0c85668"})

#: a cell: Yoga; Zed; 2023.1, and a step that was never a release's last; 2023.2; 2024.1 and 2024.2; 2025.1 to 2026.1, with
#: a step on the way; 2026.2
CELL = frozenset(
    {
        "16f1fbcab42b",
        "ccb0fa1a2252",
        "960aac0e09ea",
        "1b91788ec3a6",
        "1acf2c98e646",
        "13863f4e1612",
        "d60bddf7a903",
        "2903cd72dc14",
        "ab450ba04102",
    }
)

KNOWN = API | CELL
