"""A listing of the driver for a real cloud is whole, or it is no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from handlers.access.cloud import Service
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.drivers.openstack.api import Api
from handlers.octavia.housekeeping import UnavailableException

NAMES = {"/servers/detail": "servers", "/v2/images": "images", "/v2.0/security-groups": "security_groups"}
SHOWN = {
    "name": "one",
    "project_id": "octavia",
    "tenant_id": "octavia",
    "owner": "octavia",
    "status": "active",
    "visibility": "private",
    "OS-EXT-SRV-ATTR:host": "compute-1",
}
#: more requests than a listing of a few objects needs
MANY = 20


class Pages:
    """Stands in for keystoneauth's adapter: gives pages of one object.

    :param ids: the object of each page; with ``repeats``, every page has the first one
    """

    def __init__(self, *ids: str, repeats: bool = False, rows: Any = None) -> None:
        self._ids, self._repeats, self._rows, self.asked = ids, repeats, rows, 0

    def request(self, url: str, _method: str, **arguments: Any) -> requests.Response:
        self.asked += 1
        if self.asked > MANY:
            raise AssertionError("the listing has no end")
        name = NAMES.get(url, url.removeprefix("/os-").replace("-", "_"))
        marker = str(arguments.get("params", {}).get("marker", ""))
        place = 0 if self._repeats or not marker else self._ids.index(marker) + 1
        rows = [{"id": self._ids[place], **SHOWN}] if place < len(self._ids) else []
        shown = rows if self._rows is None else self._rows
        body = {name: shown, f"{name}_links": [{"rel": "next"}]} if rows else {name: shown}
        response = requests.Response()
        response.status_code = 200
        response._content = json.dumps({"services": []} if url == "/os-services" else body).encode()
        return response


class ACloud(OpenStackDriver):
    def __init__(self, pages: Pages) -> None:
        self.compute = Api(Service(pages, "compute"))  # type: ignore[arg-type]
        self.network = Api(Service(pages, "network"))  # type: ignore[arg-type]
        self.glance = Api(Service(pages, "image"))  # type: ignore[arg-type]

    def project(self) -> str:
        return "octavia"

    def image_owners(self) -> frozenset[str]:
        return frozenset({"octavia"})


LISTINGS: dict[str, Callable[[ACloud], Any]] = {
    "servers": lambda cloud: cloud.servers(),
    "images": lambda cloud: cloud.images(),
    "security groups": lambda cloud: cloud.security_groups(),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_goes_on_to_its_last_page(name: str) -> None:
    assert [found.id for found in LISTINGS[name](ACloud(Pages("a", "b", "c")))] == ["a", "b", "c"]


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_that_repeats_a_page_is_no_answer(name: str) -> None:
    with pytest.raises(UnavailableException):
        LISTINGS[name](ACloud(Pages("a", "b", repeats=True)))


@pytest.mark.parametrize("rows", [{}, "a", [None], [{}], ["a"]], ids=str)
@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_without_objects_is_no_answer(name: str, rows: Any) -> None:
    with pytest.raises(UnavailableException):
        LISTINGS[name](ACloud(Pages("a", rows=rows)))


def test_a_listing_of_server_groups_that_repeats_a_page_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.octavia.drivers.openstack.compute.PAGE", 1)
    with pytest.raises(UnavailableException):
        ACloud(Pages("a", repeats=True)).server_groups()


@pytest.mark.parametrize("rows", [{}, "a", [None], [{}]], ids=str)
def test_a_security_group_without_an_id_is_no_answer(rows: Any) -> None:
    with pytest.raises(UnavailableException):
        ACloud(Pages("a", rows=rows)).security_group("lb-a")
