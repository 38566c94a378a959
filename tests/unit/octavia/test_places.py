"""The driver calls the services in the region and at the endpoint that Octavia uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from requests.adapters import BaseAdapter

from handlers.access.cloud import Cloud, Place
from handlers.access.service_files import ServiceFiles
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.drivers.openstack.api import Api
from handlers.octavia.drivers.openstack.places import places
from handlers.octavia.housekeeping import UnauthorizedException
from handlers.octavia.options import AmphoraSettings
from handlers.octavia.settings import HousekeepingSettings
from tests.functional.octavia.work_queue import Queue

AMPHORA = AmphoraSettings(None, None, None, (), (), None, 60)


class Catalogue(BaseAuthPlugin):
    """Has an endpoint of every service in every region."""

    def get_token(self, session: Session, **arguments: Any) -> str:
        return "token"

    def get_endpoint(self, session: Session, **arguments: Any) -> str:
        return f"http://{arguments['service_type']}.{arguments['interface'][0]}.{arguments.get('region_name', 'one')}".lower()


class Regions(BaseAdapter):
    """Answers for every host; a server, port or image is there only in region two, and at one endpoint."""

    def send(self, request: requests.PreparedRequest, *_arguments: Any, **_named: Any) -> requests.Response:
        url = str(request.url)
        response = requests.Response()
        response.request, response.url = request, url
        here = ".internal.two/" in url or url.startswith("http://elsewhere:1/")
        response.status_code = 200 if here or "os-services" in url else 404
        body = {
            "services": [],
            "server": {
                "id": "x",
                "name": "amphora",
                "tenant_id": "octavia",
                "status": "ACTIVE",
                "OS-EXT-SRV-ATTR:host": "h",
            },
            "port": {
                "id": "x",
                "name": "",
                "project_id": "",
                "network_id": "",
                "mac_address": "",
                "admin_state_up": True,
                "revision_number": 1,
            },
            "id": "x",
            "status": "active",
            "visibility": "private",
        }
        missing = {
            "itemNotFound": {"code": 404},
            "NeutronError": {"type": "PortNotFound"},
            "message": "No image found with ID x",
        }
        body = body if response.status_code == 200 else missing
        response._content = json.dumps(body).encode()
        return response

    def close(self) -> None:
        pass


def driver(folder: Path, text: str, region: str | None) -> OpenStackDriver:
    """Return the driver by such a file of Octavia, and by the region of ``[openstack]``."""
    (folder / "octavia.conf").write_text(text)
    files = ServiceFiles("[octavia] config_file", [str(folder / "octavia.conf")])
    http = requests.Session()
    http.mount("http://", Regions())
    cloud = Cloud(Session(auth=Catalogue(), session=http), region)
    database = cast(OctaviaDatabase, None)
    return OpenStackDriver(HousekeepingSettings(), database, cloud, None, "octavia", AMPHORA, Queue(), places(files))


def finds(found: OpenStackDriver) -> list[bool]:
    return [found.server("x") is not None, found.port("x") is not None, found.image("x") is not None]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("", [False, False, False]),
        ("[nova]\nregion_name = two\n", [True, False, False]),
        ("[neutron]\nregion_name = two\n", [False, True, False]),
        ("[service_auth]\nregion_name = two\n", [False, True, False]),
        ("[glance]\nregion_name = two\n", [False, False, True]),
        ("[nova]\nregion_name = two\nendpoint_type = publicURL\n", [False, False, False]),
        ("[nova]\nendpoint = http://elsewhere:1/v2.1\n", [True, False, False]),
        ("[neutron]\nendpoint_override = http://elsewhere:1/v2.0/\n", [False, True, False]),
        ("[neutron]\nendpoint = http://elsewhere:1\n", [False, True, False]),
        ("[glance]\nendpoint = http://elsewhere:1\n", [False, False, True]),
    ],
)
@pytest.mark.parametrize("ours", [None, "one"])
def test_octavias_own_options_choose_region_and_endpoint(
    tmp_path: Path, text: str, there: list[bool], ours: str | None
) -> None:
    assert finds(driver(tmp_path, text, ours)) == there


def test_without_options_of_octavia_our_region_counts(tmp_path: Path) -> None:
    assert finds(driver(tmp_path, "", "two")) == [True, True, True]


def test_a_version_in_an_endpoint_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "octavia.conf").write_text(
        "[neutron]\nendpoint_override = http://n:9696/v2.0/\nvalid_interfaces = a, b\n"
    )
    files = ServiceFiles("[octavia] config_file", [str(tmp_path / "octavia.conf")])
    assert places(files)["network"] == Place(None, ("a", "b"), "http://n:9696")


class Refusing(BaseAdapter):
    """Refuses every request."""

    def send(self, request: requests.PreparedRequest, *_arguments: Any, **_named: Any) -> requests.Response:
        response = requests.Response()
        response.request, response.url, response.status_code = request, str(request.url), 403
        return response

    def close(self) -> None:
        pass


@pytest.mark.parametrize("own", [True, False])
def test_a_refusal_names_the_credentials_that_were_refused(tmp_path: Path, own: bool) -> None:
    path = tmp_path / "octavia.conf"
    path.write_text("[service_auth]\nauth_type = none\nendpoint = http://nova\n")
    octavia = Cloud.of_service(ServiceFiles("[octavia] config_file", [str(path)]), ["service_auth"])
    assert octavia is not None
    cloud = octavia if own else Cloud(octavia.session)
    cloud.session.session = requests.Session()
    cloud.session.session.mount("http://", Refusing())
    service = Api(cloud.service("compute", Place(url="http://nova")))
    with pytest.raises(UnauthorizedException) as refused:
        service.get("/servers", "servers")
    assert (f"[service_auth] of {path}" in str(refused.value)) == own
    assert ("[openstack]" in str(refused.value)) != own
