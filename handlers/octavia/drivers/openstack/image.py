from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from handlers.octavia.cloud_objects import RELEASED, STATE, Image
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.openstack.api import Api, age
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError, UnauthorizedException

PAGE = 200

#: a property of every image of this driver: Glance filters by the value of a property, not by its name
MARK = {"stackmend_kept": "yes"}

_PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
_FIELDS = frozenset(
    {"id", "name", "status", "owner", "visibility", "created_at", "updated_at", "self", "file", "schema"}
)


class ImageCalls(Driver):
    glance: Api
    #: tag and owner of the image of amphorae
    image_tag: str | None
    image_owner: str | None

    @abstractmethod
    def image_owners(self) -> Collection[str]:
        """Return the projects that own the images of this driver: Nova gives an image to the project that asks for it."""

    def image(self, image: str) -> Image | None:
        body = self.glance.get(f"/v2/images/{image}", f"image:{image}")
        return None if body is None else _image(body)

    def seal_image(self, image: str) -> None:
        self._set(image, {"visibility": "private", "protected": True})

    def release_image(self, image: str) -> None:
        self._set(image, {"protected": False, STATE: RELEASED})

    def unseal_image(self, image: str) -> None:
        self._set(image, {"protected": False})

    def delete_image(self, image: str) -> None:
        try:
            self.glance.remove(f"/v2/images/{image}", f"image:{image}")
        except UnauthorizedException as error:
            found = self.image(image)
            if found is not None and found.protected:
                raise DeleteFailed(f"image:{image}: it is protected") from error
            raise

    def amphora_image(self) -> str:
        """Return the id of the newest active image with the tag ``amp_image_tag``, as Octavia does
        (``octavia/image/drivers/glance_driver.py``).
        """
        if not self.image_tag:
            raise NotFoundError("image: neither [octavia] amp_image_tag nor config_file sets it")
        query = {"tag": self.image_tag, "status": "active", "sort": "created_at:desc"}
        if self.image_owner:
            query["owner"] = self.image_owner
        for shown in self.glance.list("/v2/images", "images", 1, **query):
            return str(shown["id"])
        raise NotFoundError(f"image: none has the tag {self.image_tag}")

    def images(self) -> Sequence[Image]:
        found = [_image(shown) for shown in self.glance.list("/v2/images", "images", PAGE, **MARK)]
        owners = self.image_owners()
        return [image for image in found if image.owner in owners and image.properties.get(STATE) != RELEASED]

    def _set(self, image: str, values: Mapping[str, Any]) -> None:
        # Glance answers 409 to the replacement of a missing property, and replaces by "add" too (``glance/api/v2/images.py``)
        patch = json.dumps([{"op": "add", "path": f"/{name}", "value": value} for name, value in values.items()])
        self.glance.call("PATCH", f"/v2/images/{image}", f"image:{image}", data=patch, headers=_PATCH)


def _image(shown: Mapping[str, Any]) -> Image:
    return Image(
        id=shown["id"],
        name=shown.get("name") or "",
        status=shown["status"],
        owner=shown.get("owner") or "",
        protected=bool(shown.get("protected")),
        visibility=shown["visibility"],
        tags=frozenset(shown.get("tags") or ()),
        properties={name: value for name, value in shown.items() if isinstance(value, str) and name not in _FIELDS},
        age=age(shown.get("created_at")),
    )
