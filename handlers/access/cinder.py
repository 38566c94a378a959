"""The client for Cinder's attachments and volumes.

The requests have no service token. So Cinder asks Nova before it deletes a connected attachment, and answers 409 while Nova
uses the attachment.

``connection_info`` can contain passwords, so an :class:`Attachment` has only those members that :data:`PLACE` lists.

Sources: ``cinder/volume/api.py`` (attachment_deletion_allowed), ``cinder/api/v3/attachments.py``,
``cinder/api/v3/views/attachments.py``, ``cinder/policies/attachments.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import requests

from handlers.access.cloud import Cloud, Service, Write, page
from handlers.base import Conflict, Refused, Resources, Unavailable

#: attachments and volumes per request; Cinder may give fewer
PAGE = 1000
#: the first microversion with attachments: Pike
MICROVERSION = "3.27"
ABSENT = "the service catalogue has no Cinder (block-storage), so that there are no attachments to inspect"
#: the members of ``connection_info`` that name the volume's place on its storage, without passwords
PLACE = ("driver_volume_type", "name", "target_iqn", "target_lun", "target_portal", "target_wwn", "device_path")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A record of Cinder: a server uses a volume, or has reserved it.

    :param instance: the server's id, or an id that a service other than Nova chose; empty if Cinder has no id
    :param connected: whether a host has the data to reach the volume; always False in a listing without details
    """

    id: str
    volume: str
    instance: str
    status: str
    mode: str = ""
    attached_at: str = ""
    connected: bool = False
    place: Mapping[str, Any] | None = None


class Storage:
    """The client for Cinder. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(Cloud.from_resources).service("block-storage"))

    def exists(self) -> bool:
        """Return whether the cloud has a Cinder: an option or the service catalogue names its endpoint.

        :raises Unavailable: Keystone does not answer, or rejects the credentials
        """
        return self._service.exists()

    def elsewhere(self) -> str:
        """Return a sentence that names other regions with a Cinder, if this region has none; otherwise empty.

        :raises Unavailable: as :meth:`exists`
        """
        if self.exists() or not (regions := self._service.regions()):
            return ""
        return (
            f"the service catalogue has no Cinder (block-storage) in the region {self._service.region}, only in "
            f"{', '.join(regions)}. So no attachments are inspected; [openstack] region_name chooses the region"
        )

    def warnings(self) -> Iterator[str]:
        if not self.exists():
            yield self.elsewhere() or ABSENT

    def require(self) -> None:
        """Raise Unavailable if Cinder gives no usable answer."""
        url = "/attachments"
        self._body(self._service.read(url, params={"limit": 1}, microversion=MICROVERSION), url, "attachments")

    def attachments(self) -> Iterator[Attachment]:
        """Yield the attachments of all projects, page by page, without details.

        :raises Unavailable: no usable answer arrives; the attachments before the error are valid
        """
        for row in self._rows("/attachments", "attachments", {}):
            yield _attachment(row)

    def attachments_of(self, **owner: str) -> list[Attachment]:
        """Return the attachments of a server or a volume, with details.

        :param owner: ``instance_id=...`` or ``volume_id=...``
        :raises Unavailable: no usable answer arrives
        """
        return [_attachment(row) for row in self._rows("/attachments/detail", "attachments", owner)]

    def attachment(self, attachment: str) -> Attachment | None:
        row = self._one(f"/attachments/{attachment}", "attachment")
        return None if row is None else _attachment(row)

    def delete_attachment(self, attachment: Attachment) -> None:
        """:raises Conflict: the attachment is gone
        :raises Refused: Nova still uses the attachment, or Cinder rejects the request
        """
        response = self._service.send(deleting_attachment(attachment), microversion=MICROVERSION)
        if response.status_code == 404:
            raise Conflict(f"attachment {attachment.id} is gone")
        if response.status_code == 409:
            raise Refused(
                f"Cinder answers 409: by Nova's API, instance {attachment.instance} still uses attachment {attachment.id}. "
                "If Nova's own requests get 409 too, Nova sends no service token: set [service_user] "
                "send_service_user_token in nova.conf"
            )
        if response.status_code not in {200, 202, 204}:
            raise Refused(
                f"Cinder refuses to delete attachment {attachment.id}: {response.status_code} {_detail(response)}"
            )

    def volumes(self) -> Iterator[str]:
        """Yield the ids of the volumes of all projects, page by page.

        :raises Unavailable: no usable answer arrives
        """
        for row in self._rows("/volumes", "volumes", {}):
            yield str(row["id"])

    def has_volume(self, volume: str) -> bool:
        """Return whether Cinder has a volume.

        :param volume: the id in any letter case; Nova keeps the case of the user's request
        """
        return self._one(f"/volumes/{volume.lower()}", "volume") is not None

    def unchanged_for(self, volume: str) -> float:
        """Return the seconds since a volume last changed, by this machine's clock; infinite if the volume does not exist."""
        row = self._one(f"/volumes/{volume}", "volume")
        times = [] if row is None else [row[name] for name in ("created_at", "updated_at") if row.get(name)]
        if not times:
            return float("inf")
        changed = max(datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times)
        return (datetime.now(UTC) - changed).total_seconds()

    def shows_all_projects(self) -> bool:
        """Return whether Cinder shows a volume's host, which only administrators see; False if there is no volume."""
        url = "/volumes/detail"
        query = {"all_tenants": "1", "limit": 1}
        rows = self._body(self._service.read(url, params=query, microversion=MICROVERSION), url, "volumes")
        return any(_ADMIN in row for row in rows)

    def _rows(self, url: str, name: str, filters: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        query: dict[str, Any] = {**filters, "all_tenants": "1", "limit": PAGE}
        more, markers = True, set[str]()
        while more:
            rows = self._body(self._service.read(url, params=query, microversion=MICROVERSION), url, name)
            found = page("block-storage", url, rows, markers)
            yield from found
            more = bool(found)
            if more:
                query["marker"] = found[-1]["id"]

    def _one(self, url: str, name: str) -> Mapping[str, Any] | None:
        response = self._service.read(url, microversion=MICROVERSION)
        if response.status_code == 404 and "itemNotFound" in self._service.json(response):
            return None
        found: Mapping[str, Any] = self._body(response, url, name)
        return found

    def _body(self, response: requests.Response, url: str, name: str) -> Any:
        if response.status_code != 200:
            raise Unavailable("block-storage", f"answered {response.status_code} to {url}{_HINT}")
        body = self._service.json(response)
        if name not in body:
            raise Unavailable("block-storage", f"answered to {url} without {name}{_HINT}")
        return body[name]


#: a member of a volume that only administrators see (``cinder/policies/volumes.py``: volume_host_attribute)
_ADMIN = "os-vol-host-attr:host"
_HINT = "; is this Cinder? See [openstack] block_storage_endpoint_override"


def deleting_attachment(attachment: Attachment) -> Write:
    return Write("block-storage", "DELETE", f"/attachments/{attachment.id}")


def _attachment(row: Mapping[str, Any]) -> Attachment:
    connection = row.get("connection_info") or {}
    return Attachment(
        str(row["id"]),
        str(row["volume_id"]),
        row.get("instance") or "",
        row.get("status") or "",
        row.get("attach_mode") or "",
        row.get("attached_at") or "",
        bool(connection),
        {name: connection[name] for name in PLACE if name in connection},
    )


def _detail(response: requests.Response) -> str:
    try:
        [error] = response.json().values()
        return " ".join(str(error["message"]).split())
    except (ValueError, LookupError, TypeError, AttributeError):
        return "no detail"
