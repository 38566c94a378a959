"""Checks whether an answer "not found" of Cinder proves that a volume is gone."""

from __future__ import annotations

from handlers.access.cinder import Storage
from handlers.base import Refused
from handlers.nova.attachments.queries import youngest_volumes
from handlers.nova.database import NovaDatabases


def require_own_cinder(databases: NovaDatabases, storage: Storage) -> None:
    """Check that this Cinder belongs to this Nova and shows the volumes of all projects. Otherwise it can hide a volume.

    :raises Refused: Cinder lacks all volumes of the youngest block device mappings, or hides volumes of other projects
    :raises Unavailable: Cinder or a cell does not answer
    """
    if not storage.shows_all_projects():
        raise Refused(
            "Cinder does not show these credentials the volumes of all projects, so that no volume is known to be gone: "
            "give them the role admin"
        )
    found = databases.run_in_all(databases.host_cells(), youngest_volumes)
    volumes = sorted({volume for some in found.values() for volume in some})
    if not any(storage.has_volume(volume) for volume in volumes):
        raise Refused(
            f"Cinder has none of the {len(volumes)} volumes of Nova's youngest block device mappings, so that it may be "
            "another cloud's or region's: set [openstack] region_name, or block_storage_endpoint_override"
        )
