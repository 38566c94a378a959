"""The driver of a real cloud plans exactly the requests that it sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import requests

from handlers.access.cloud import Cloud, Service, Write
from handlers.octavia.cloud_objects import Port
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.options import AmphoraSettings
from handlers.octavia.rehearsal import READS
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.work_queue import WorkQueue

_SERVER = {"id": "s", "name": "n", "tenant_id": "p", "status": "ACTIVE", "OS-EXT-SRV-ATTR:host": "h"}
_READ = {"/servers/s": {"server": _SERVER}, "/v2/images": {"images": [{"id": "newest"}]}}
_PORT = Port("p", "octavia-lb-x", "p", "n", "s", "", "m", True, 7)

CALLS: dict[str, tuple[object, ...]] = {
    "create_image": ("s", "name", {"a": "b"}),
    "create_server": ("name", "zone", "tag", {"a": "b"}, ""),
    "delete_amphora": ("a",),
    "delete_image": ("i",),
    "delete_port": (_PORT,),
    "delete_security_group": ("g",),
    "delete_server": ("s",),
    "delete_server_group": ("g",),
    "describe_server": ("s", {"a": "b"}, "name"),
    "detach_port": ("s", "p"),
    "disable_port": (_PORT,),
    "failover_amphora": ("a",),
    "failover_load_balancer": ("b",),
    "lock_server": ("s", "why"),
    "release_image": ("i",),
    "seal_image": ("i",),
    "shelve_server": ("s",),
    "stop_server": ("s",),
    "tag_security_group": ("g", "t"),
    "tag_server": ("s", "t"),
    "unlock_server": ("s",),
    "unseal_image": ("i",),
    "untag_security_group": ("g", "t"),
    "untag_server": ("s", "t"),
}


class Client:
    """Answers every request, and records those that write."""

    def __init__(self, service: str, sent: list[str]) -> None:
        self._service = service
        self._sent = sent

    def request(self, url: str, method: str, **arguments: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code = 204 if method == "DELETE" else 200
        shown = _READ.get(url, {"image_id": "i", "port": {"id": "p"}, "server": {"id": "new"}})
        answer._content = json.dumps(shown).encode()
        if method != "GET":
            body = json.loads(arguments["data"]) if "data" in arguments else arguments.get("json")
            self._sent.append(str(Write(self._service, method, url, body, arguments.get("headers") or {})))
        return answer


class FakeCloud:
    def __init__(self) -> None:
        self.sent: list[str] = []

    def service(self, name: str, place: object = None) -> Service:
        return Service(cast(Any, Client(name, self.sent)), name)

    def project(self) -> str:
        return "p"


class Queue:
    def require_worker(self) -> None:
        """Octavia has a worker."""


def test_every_call_that_writes_is_here() -> None:
    methods = {name for name, method in vars(Driver).items() if callable(method) and not name.startswith("_")}
    assert methods >= READS
    assert methods - READS - {"made", "requests"} == set(CALLS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_plan_of_a_call_is_what_the_driver_sends(tmp_path: Path, name: str) -> None:
    cloud = FakeCloud()
    driver = OpenStackDriver(
        HousekeepingSettings(),
        OctaviaDatabase(f"sqlite:///{tmp_path}/octavia.sqlite"),
        cast(Cloud, cloud),
        cast(Cloud, cloud),
        "p",
        AmphoraSettings("tag", None, "flavor", (), (), None, 60),
        cast(WorkQueue, Queue()),
    )
    planned = driver.requests(name, CALLS[name])
    assert cloud.sent == [], "a plan sends nothing"
    getattr(driver, name)(*CALLS[name])
    assert planned
    assert planned == cloud.sent
