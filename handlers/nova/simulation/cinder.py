"""A simulated Cinder on loopback: volumes with their attachments.

It answers the requests of :mod:`handlers.access.cinder` as the real Cinder does, with filters and pages. Before it deletes an
attachment, it asks Nova (``cinder/volume/api.py``: attachment_deletion_allowed).
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from handlers.nova.simulation.json_server import Answer, JsonServer

_SUMMARY = ("id", "status", "instance", "volume_id")
_GONE: Answer = (404, {"itemNotFound": {"code": 404, "message": "could not be found."}})


class Cinder(JsonServer):
    """:param nova_uses: gets an instance and an attachment; returns whether Nova's API shows the attachment"""

    def __init__(self, nova_uses: Callable[[str, str], bool]) -> None:
        super().__init__()
        self.volumes: dict[str, dict[str, Any]] = {}
        self.attachments: dict[str, dict[str, Any]] = {}
        #: the most rows in one answer (``osapi_max_limit``)
        self.page = 1000
        #: names of fields that no answer shows
        self.hidden: set[str] = set()
        self._nova_uses = nova_uses

    @property
    def url(self) -> str:
        return f"{super().url}/v3"

    def create_volume(self) -> str:
        volume = str(uuids.uuid4())
        self.volumes[volume] = {
            "id": volume,
            "name": "",
            "status": "available",
            "created_at": "2020-01-01T12:00:00.000000",
            "updated_at": None,
            "os-vol-host-attr:host": "storage@lvm#lvm",
        }
        return volume

    def reserve(self, volume: str, instance: str | None) -> str:
        """Reserve a volume for a server; return the attachment's id."""
        attachment = str(uuids.uuid4())
        self.attachments[attachment] = {
            "id": attachment,
            "volume_id": volume,
            "instance": instance,
            "status": "reserved",
            "attach_mode": "null",
            "attached_at": "",
            "connection_info": {},
        }
        self._settle(volume)
        return attachment

    def connect(self, attachment: str) -> None:
        """Connect an attachment: add the data by which a host reaches the volume."""
        self.attachments[attachment] |= {
            "status": "attached",
            "attach_mode": "rw",
            "attached_at": "2026-11-29T12:00:00.000000",
            "connection_info": {
                "attachment_id": attachment,
                "driver_volume_type": "iscsi",
                "target_iqn": f"iqn.2010-10.org.openstack:volume-{attachment}",
                "target_lun": 1,
                "target_portal": "192.0.2.7:3260",
                "auth_method": "CHAP",
                "auth_username": "chap",
                "auth_password": "a-chap-secret",
            },
        }
        self._settle(self.attachments[attachment]["volume_id"])

    def disconnect(self, attachment: str) -> None:
        self.attachments[attachment] |= {"status": "reserved", "attached_at": "", "connection_info": {}}
        self._settle(self.attachments[attachment]["volume_id"])

    def delete_attachment(self, attachment: str) -> None:
        """Delete an attachment without asking Nova."""
        self._settle(self.attachments.pop(attachment)["volume_id"])

    def delete_volume(self, volume: str) -> None:
        """Delete a volume with its attachments, as a forced deletion does."""
        for attachment in self.of(volume_id=volume):
            del self.attachments[attachment]
        del self.volumes[volume]

    def of(self, **owner: str) -> list[str]:
        """Return the ids of an owner's attachments: of ``instance=<uuid>`` or ``volume_id=<uuid>``."""
        [(name, value)] = owner.items()
        return [attachment for attachment, row in self.attachments.items() if row[name] == value]

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        split = urlsplit(url)
        version, kind, *rest = split.path.strip("/").split("/")
        if version != "v3":
            return 404, None
        if method in self.before:
            self.before[method](rest[0] if rest else "")
        if method in self.faults:
            return self.faults[method], {"badRequest": {"message": "as the test wants it"}}
        if headers.get("OpenStack-API-Version") != "volume 3.27":
            return 404, {"itemNotFound": {"message": "no attachments before 3.27"}}
        if method == "DELETE":
            return self._delete(rest[0], headers)
        rows = self.attachments if kind == "attachments" else self.volumes
        if rest in ([], ["detail"]):
            return self._list(kind, rows, parse_qs(split.query), detailed=bool(rest))
        row = rows.get(rest[0])
        return (200, {kind[:-1]: self._shown(row)}) if row else _GONE

    def _list(
        self, kind: str, rows: Mapping[str, dict[str, Any]], query: dict[str, list[str]], *, detailed: bool
    ) -> Answer:
        filters = {"instance_id": "instance", "volume_id": "volume_id"}
        found = [
            row
            for row in reversed(list(rows.values()))
            if all(row[name] in query[given] for given, name in filters.items() if given in query)
        ]
        ids = [row["id"] for row in found]
        start = ids.index(query["marker"][0]) + 1 if "marker" in query else 0
        page = found[start : start + min(self.page, int(query["limit"][0]))]
        if kind == "attachments" and not detailed:
            page = [{name: row[name] for name in _SUMMARY} for row in page]
        return 200, {kind: [self._shown(row) for row in page]}

    def _delete(self, attachment: str, headers: Mapping[str, str]) -> Answer:
        row = self.attachments.get(attachment)
        if row is None:
            return _GONE
        trusted = "X-Service-Token" in headers or not row["instance"] or not row["connection_info"]
        if not trusted and self._nova_uses(row["instance"], attachment):
            message = f"Detach volume from instance {row['instance']} using the Compute API"
            return 409, {"conflictingRequest": {"code": 409, "message": message}}
        self.delete_attachment(attachment)
        left = [self.attachments[one] for one in self.of(volume_id=row["volume_id"])]
        return 200, {"attachments": left}

    def _shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in self.hidden}

    def _settle(self, volume: str) -> None:
        found = {self.attachments[one]["status"] for one in self.of(volume_id=volume)}
        status = "in-use" if "attached" in found else "reserved" if found else "available"
        self.volumes[volume]["status"] = status
