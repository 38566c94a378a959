"""The schemas of Octavia's database that stackmend knows: those of Octavia 10 (Yoga) to 19.

stackmend reads a database with another ``alembic_version`` if it has the tables and columns that stackmend needs, but never
writes to it.

Source: ``octavia/db/migration/alembic_migrations/versions`` of these releases.
"""

from __future__ import annotations

#: the last revision of each release and the steps between them: 10; a step of 11; 11; 12 to 15 with steps; 16 and later
KNOWN = frozenset(
    {
        "6ac558d7fc21",
        "31f7653ded67",
        "0995c26fc506",
        "632152d2d32e",
        "db2a73e82626",
        "3097e55493ae",
        "8db7a6443785",
        "fabf4983846b",
    }
)
