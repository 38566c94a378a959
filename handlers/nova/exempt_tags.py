"""The tags and the metadata by which owners exempt their servers from heals.

stackmend reads tags and metadata from the databases of the cells. A deleted server has neither.

Sources: ``nova/db/main/models.py`` (Tag, InstanceMetadata), ``nova/db/main/api.py`` (instance_destroy).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import EXEMPT_TAG, Finding
from handlers.nova import queries, tables
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases


def holder(databases: NovaDatabases, finding: Finding) -> str:
    """Return a sentence that names a server of the finding with the tag or the metadata; empty without such a server.

    :raises Unavailable: a cell that can have the servers does not answer
    """
    scopes = {str(finding.key), *finding.concerns}
    servers = sorted(scope.removeprefix("instance:") for scope in scopes if scope.startswith("instance:"))
    if not servers:
        return ""
    cells = [cell for cell in databases.cells() if _names(cell) & scopes] or databases.cells()
    for cell in cells:
        if found := databases.database(cell).run(partial(_first, servers=servers)):
            return found
    return ""


def _names(cell: Cell) -> set[str]:
    return {f"cell:{cell.name}", f"cell:{cell.uuid}"}


def _first(connection: Connection, servers: Collection[str]) -> str:
    tags, metadata = tables.tags.c, tables.instance_metadata.c
    mine = (metadata.instance_uuid.in_(servers), metadata.key == EXEMPT_TAG, metadata.deleted == 0)
    tagged, described = queries.read_both(
        connection,
        sa.select(tags.resource_id).where(tags.resource_id.in_(servers), tags.tag == EXEMPT_TAG),
        sa.select(metadata.instance_uuid).where(*mine),
    )
    if tagged:
        return f"instance:{min(row['resource_id'] for row in tagged)} has the tag {EXEMPT_TAG}"
    if described:
        return f"instance:{min(row['instance_uuid'] for row in described)} has the metadata {EXEMPT_TAG}"
    return ""
