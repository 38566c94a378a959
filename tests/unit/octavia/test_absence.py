"""A 404 proves that an object does not exist only with the service's own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from handlers.access.cloud import Service
from handlers.octavia.drivers.openstack.api import Api
from handlers.octavia.housekeeping import NotFoundError, UnavailableException

#: how webob answers in the name of Glance (``glance/db/__init__.py``, ``glance/api/v2/images.py``)
OF_GLANCE = "<html><body><h1>404 Not Found</h1> {}<br /><br /></body></html>"
OF_PROXY = "<html><h1>404 Not Found</h1></html>"
#: how Apache answers
OF_APACHE = "<html><p>The requested URL /v2/images/1 was not found on this server.</p></html>"

MISSING: list[tuple[str, str, Any]] = [
    ("compute", "server:1", {"itemNotFound": {"code": 404, "message": "Instance 1 could not be found."}}),
    ("network", "security-group:1", {"NeutronError": {"type": "SecurityGroupNotFound", "message": ""}}),
    ("network", "security-group:1", {"NeutronError": {"type": "TagNotFound", "message": ""}}),
    ("image", "image:1", OF_GLANCE.format("No image found with ID 1")),
    ("image", "image:1", OF_GLANCE.format("Failed to find image 1 to delete")),
    ("load-balancer", "amphora:1", {"faultcode": "Client", "faultstring": "Amphora 1 not found.", "debuginfo": None}),
]
NO_PROOFS: list[Any] = [OF_PROXY, OF_APACHE, {}, [], None, "1"]
UNKNOWN: list[tuple[str, str, Any]] = [
    *[(service, thing, body) for service, thing, _missing in MISSING for body in NO_PROOFS],
    ("compute", "server:1", {"itemNotFound": "1"}),
    ("network", "security-group:1", {"NeutronError": {"type": "HTTPNotFound", "message": ""}}),
    ("network", "security-group:1", {"NeutronError": "security group 1 not found"}),
    ("image", "image:1", OF_GLANCE.format("The resource could not be found.")),
    ("image", "image:", OF_GLANCE.format("No image found with ID ")),
    ("load-balancer", "amphora:1", {"faultcode": "Client", "faultstring": "Amphora 2 not found.", "debuginfo": None}),
    ("unknown", "server:1", {"itemNotFound": {"code": 404}}),
]
CALLS: list[Callable[[Api, str], object]] = [
    lambda api, thing: api.get("/1", thing),
    lambda api, thing: api.remove("/1", thing),
    lambda api, thing: api.call("PUT", "/1", thing),
]


class _Server:
    """Stands in for keystoneauth's adapter: always answers 404 with one body."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def request(self, _url: str, _method: str, **_arguments: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = 404
        response._content = (self._body if isinstance(self._body, str) else json.dumps(self._body)).encode()
        return response


def _api(service: str, body: Any) -> Api:
    return Api(Service(_Server(body), service))  # type: ignore[arg-type]


@pytest.mark.parametrize(("service", "thing", "body"), MISSING)
def test_an_object_does_not_exist_if_its_service_says_so(service: str, thing: str, body: Any) -> None:
    api = _api(service, body)
    assert api.get("/1", thing) is None
    api.remove("/1", thing)
    with pytest.raises(NotFoundError):
        api.call("PUT", "/1", thing)


@pytest.mark.parametrize(("service", "thing", "body"), UNKNOWN)
@pytest.mark.parametrize("call", CALLS, ids=["get", "remove", "call"])
def test_any_other_404_leaves_an_object_unknown(
    service: str, thing: str, body: Any, call: Callable[[Api, str], object]
) -> None:
    with pytest.raises(UnavailableException) as unknown:
        call(_api(service, body), thing)
    assert unknown.value.dependency == service
