"""Every answer of an API becomes exactly one of the specification's exceptions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as ks

from handlers.access.cloud import Service
from handlers.access.neutron import Network
from handlers.base import Unavailable
from handlers.octavia.cloud_objects import Port
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.drivers.openstack.api import Api, age
from handlers.octavia.drivers.openstack.compute import _server
from handlers.octavia.drivers.openstack.loadbalancer import OctaviaCalls
from handlers.octavia.drivers.openstack.network import NetworkCalls
from handlers.octavia.housekeeping import (
    AmphoraDriverError,
    DeleteFailed,
    NotFoundError,
    UnauthorizedException,
    UnavailableException,
)
from tests.functional.octavia.work_queue import Queue

SERVICE, THING = "compute", "server:1"
#: Nova's answer for an object that does not exist
MISSING: tuple[int, Any] = (404, {"itemNotFound": {"code": 404, "message": "Instance 1 could not be found."}})


class Answers:
    """Stands in for keystoneauth's adapter: gives one answer, or raises, and remembers what it was asked."""

    def __init__(self, *answers: tuple[int, Any] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def request(self, url: str, method: str, **arguments: Any) -> requests.Response:
        self.asked.append({"url": url, "method": method, **arguments})
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code, body = answer
        response._content = json.dumps(body).encode()
        return response


def api(*answers: tuple[int, Any] | Exception) -> Api:
    return Api(Service(Answers(*answers), SERVICE), "2.73")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "called", "removed", "dependency"),
    [
        ((400, {}), AmphoraDriverError, DeleteFailed, ""),
        ((401, {}), UnauthorizedException, UnauthorizedException, SERVICE),
        ((403, {}), UnauthorizedException, UnauthorizedException, SERVICE),
        (MISSING, NotFoundError, None, ""),
        ((404, {}), UnavailableException, UnavailableException, SERVICE),
        ((406, {}), AmphoraDriverError, DeleteFailed, ""),
        ((409, {}), UnavailableException, UnavailableException, THING),
        ((412, {}), UnavailableException, UnavailableException, THING),
        ((413, {}), UnavailableException, UnavailableException, SERVICE),
        ((429, {}), UnavailableException, UnavailableException, SERVICE),
        ((500, {}), UnavailableException, UnavailableException, SERVICE),
        ((503, {}), UnavailableException, UnavailableException, SERVICE),
        (ks.ConnectTimeout("late"), UnavailableException, UnavailableException, SERVICE),
        (ks.ConnectFailure("refused"), UnavailableException, UnavailableException, SERVICE),
        (ks.EndpointNotFound("none"), UnavailableException, UnavailableException, SERVICE),
        (ks.Unauthorized("wrong password"), UnauthorizedException, UnauthorizedException, SERVICE),
    ],
)
def test_failures(
    answer: tuple[int, Any] | Exception,
    called: type[AmphoraDriverError],
    removed: type[AmphoraDriverError] | None,
    dependency: str,
) -> None:
    with pytest.raises(called) as failure:
        api(answer).call("POST", "/servers/1/action", THING)
    assert type(failure.value) is called
    assert getattr(failure.value, "dependency", "") == dependency
    if removed is None:
        api(answer).remove("/servers/1", THING)
        return
    with pytest.raises(removed) as failure:
        api(answer).remove("/servers/1", THING)
    assert type(failure.value) is removed


@pytest.mark.parametrize(
    "body",
    [
        {"conflictingRequest": {"code": 409, "message": "it is in vm_state error"}},
        {"NeutronError": {"type": "InUse", "message": "it is in vm_state error"}},
        {"faultcode": "Client", "faultstring": "it is in vm_state error"},
        "it is in vm_state error",
    ],
)
def test_an_error_contains_the_message_of_the_api(body: Any) -> None:
    with pytest.raises(UnavailableException, match="answered 409: it is in vm_state error"):
        api((409, body)).call("POST", "/servers/1/action", THING)


def test_a_missing_object_is_no_error_for_a_read() -> None:
    assert api(MISSING).get("/servers/1", THING) is None


def test_an_answer_without_json_is_no_answer() -> None:
    with pytest.raises(UnavailableException):
        api((200, [])).get("/servers/1", THING)


def test_a_listing_goes_on_to_its_end_and_a_failure_is_not_an_end() -> None:
    first = (200, {"servers": [{"id": "a"}, {"id": "b"}], "servers_links": [{"rel": "next"}]})
    answers = Answers(first, (200, {"servers": [{"id": "c"}]}))
    listed = Api(Service(answers, SERVICE)).list("/servers", "servers", 2, tags="x")  # type: ignore[arg-type]
    assert [shown["id"] for shown in listed] == ["a", "b", "c"]
    assert [asked["params"] for asked in answers.asked] == [
        {"tags": "x", "limit": 2},
        {"tags": "x", "limit": 2, "marker": "b"},
    ]
    wrongs: list[tuple[int, Any]] = [(404, {}), (200, {"flavors": []}), (500, {})]
    for wrong in wrongs:
        with pytest.raises(UnavailableException):
            list(api(first, wrong).list("/servers", "servers", 2))


def test_a_server_whose_cell_does_not_answer_is_not_known() -> None:
    with pytest.raises(UnavailableException) as unknown:
        _server({"id": "1", "status": "UNKNOWN", "tenant_id": "p", "created": "2026-01-01T00:00:00Z"})
    assert unknown.value.dependency == THING


def test_a_server_without_its_details_is_no_answer() -> None:
    with pytest.raises(AmphoraDriverError, match="administrator"):
        _server({"id": "1", "status": "ACTIVE", "name": "amphora", "tenant_id": "p"})


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T01:00:00+01:00"])
def test_every_format_of_a_time_gives_an_age(time: str) -> None:
    assert abs(age(time) - age("2026-01-01T00:00:00Z")) < 1
    assert age(time) > 0


def test_what_is_made_in_our_future_is_young() -> None:
    assert age("2999-01-01T00:00:00Z") == 0
    assert age(None) == 0


class ACloud(OpenStackDriver):
    """The driver on given answers of Nova, to ourselves and to Octavia."""

    def __init__(self, ours: Answers, octavias: Answers | None = None) -> None:
        self.compute = Api(Service(ours, SERVICE))  # type: ignore[arg-type]
        self._octavias = octavias

    def project(self) -> str:
        return "octavia"

    def builder(self) -> Api:
        if self._octavias is None:
            raise UnauthorizedException(SERVICE, "no credentials")
        return Api(Service(self._octavias, SERVICE))  # type: ignore[arg-type]


NONE: tuple[int, Any] = (200, {"servers": []})
UP = {"host": "compute-1", "status": "enabled", "binary": "nova-compute"}
SILENT = {"host": "compute-2", "status": "UNKNOWN", "binary": "nova-compute"}


def test_a_listing_that_all_cells_had_a_part_in_is_whole() -> None:
    assert ACloud(Answers(NONE, (200, {"services": [UP]}))).servers() == []


@pytest.mark.parametrize(
    "octavias",
    [
        None,
        Answers((200, {"servers": [{"id": "1", "status": "UNKNOWN"}]})),
        Answers((200, {"servers": [{"id": "1"}], "servers_links": [{"rel": "next"}]})),
        Answers((500, {})),
        Answers((404, {})),
    ],
    ids=["no credentials", "some are unknown", "the page is full", "no answer", "another answers"],
)
def test_a_listing_that_a_cell_had_no_part_in_is_no_answer(octavias: Answers | None) -> None:
    with pytest.raises(UnavailableException):
        ACloud(Answers(NONE, (200, {"services": [UP, SILENT]})), octavias).servers()


def test_a_cell_that_has_nothing_of_octavia_may_be_silent() -> None:
    octavias = Answers((200, {"servers": [{"id": "1"}]}))
    assert ACloud(Answers(NONE, (200, {"services": [UP, SILENT]})), octavias).servers() == []
    assert not octavias.asked[0].get("params"), "with a filter, or in pages, Nova does not tell"


@pytest.mark.parametrize("answer", [(404, {}), (200, {}), (500, {})])
def test_a_listing_whose_cells_are_not_known_is_no_answer(answer: tuple[int, Any]) -> None:
    with pytest.raises(UnavailableException):
        ACloud(Answers(NONE, answer)).servers()


def test_a_server_is_not_there_only_when_all_cells_had_a_part_in_the_answer() -> None:
    """A server without a request spec is not found while its cell does not answer."""
    assert ACloud(Answers(MISSING, (200, {"services": [UP]}))).server("1") is None
    some = Answers((200, {"servers": [{"id": "1", "status": "UNKNOWN"}]}))
    with pytest.raises(UnavailableException):
        ACloud(Answers(MISSING, (200, {"services": [UP, SILENT]})), some).server("1")


@pytest.mark.parametrize(
    ("status", "task", "exists"),
    [
        ("SOFT_DELETED", None, False),
        ("SOFT_DELETED", "deleting", False),
        ("SOFT_DELETED", "restoring", True),
        ("ACTIVE", "soft-deleting", True),
        ("ACTIVE", None, True),
    ],
)
def test_a_soft_deleted_server_does_not_exist(status: str, task: str | None, exists: bool) -> None:
    """Nova shows it by its id until ``reclaim_instance_interval`` ends, but in no listing."""
    shown = {"id": "1", "name": "amphora", "tenant_id": "octavia", "OS-EXT-SRV-ATTR:host": "compute-1"}
    answer = (200, {"server": {**shown, "status": status, "OS-EXT-STS:task_state": task}})
    assert (ACloud(Answers(answer)).server("1") is not None) is exists


@pytest.mark.parametrize(
    ("most", "room"),
    [
        ((10, -1, -1), 7),
        ((10, 8, -1), 2),
        ((10, -1, 5000), 1),
        ((2, -1, -1), 0),
        ((-1, -1, -1), None),
    ],
)
def test_the_quotas_give_the_number_of_further_servers(most: tuple[int, int, int], room: int | None) -> None:
    absolute = dict(zip(("maxTotalInstances", "maxTotalCores", "maxTotalRAMSize"), most, strict=True))
    absolute |= {"totalInstancesUsed": 3, "totalCoresUsed": 4, "totalRAMUsed": 3072}
    octavias = Answers((200, {"limits": {"absolute": absolute}}), (200, {"flavor": {"vcpus": 2, "ram": 1024}}))
    cloud = ACloud(Answers(), octavias)
    assert cloud.headroom("flavor") == room


class Calls(OctaviaCalls, NetworkCalls):
    """The calls to Octavia and Neutron, without the rest of the driver."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = Answers(*answers)
        self.load_balancer = Api(Service(self.answers, "load-balancer"))  # type: ignore[arg-type]
        self.network = Api(Service(self.answers, "network"))  # type: ignore[arg-type]
        self.queue = Queue()

    def project(self) -> str:
        return "octavia"


Calls.__abstractmethods__ = frozenset()


def test_a_failover_is_accepted_where_the_amphora_is_shown() -> None:
    calls = Calls((200, {"amphora": {}}), (403, {}), (503, {}))  # type: ignore[abstract]
    calls.require_failover("a")
    with pytest.raises(UnauthorizedException):
        calls.require_failover("a")
    with pytest.raises(UnavailableException):
        calls.require_failover("a")
    assert {(one["method"], one["url"]) for one in calls.answers.asked} == {("GET", "/v2/octavia/amphorae/a")}


@pytest.mark.parametrize("call", ["require_failover", "failover_amphora", "failover_load_balancer", "delete_amphora"])
def test_octavia_gets_no_request_without_a_worker_that_takes_it(call: str) -> None:
    calls = Calls()  # type: ignore[abstract]
    calls.queue = queue = Queue()
    queue.error = Unavailable("broker:octavia", "no host of the broker answers")
    with pytest.raises(UnavailableException, match="no host of the broker answers"):
        getattr(calls, call)("a")
    assert calls.answers.asked == []


def test_a_security_group_is_found_by_its_name_and_tagged() -> None:
    shown = {"id": "sg", "name": "lb-x", "project_id": "octavia", "tags": ["one"]}
    calls = Calls(  # type: ignore[abstract]
        (200, {"security_groups": [shown]}),
        (200, {"security_groups": [shown, shown]}),
        (201, {}),
        (204, {}),
        (404, {"NeutronError": {"type": "TagNotFound"}}),
    )
    found = calls.security_group("lb-x")
    assert found is not None
    assert (found.id, found.tags) == ("sg", frozenset({"one"}))
    assert calls.answers.asked[0]["params"] == {"project_id": "octavia", "name": "lb-x"}
    assert calls.security_group("lb-x") is None, "two of one name: neither is known to be Octavia's"
    calls.tag_security_group("sg", "two")
    assert (calls.answers.asked[2]["method"], calls.answers.asked[2]["url"]) == (
        "PUT",
        "/v2.0/security-groups/sg/tags/two",
    )
    calls.untag_security_group("sg", "one")
    calls.untag_security_group("sg", "gone")
    assert [(one["method"], one["url"]) for one in calls.answers.asked[3:]] == [
        ("DELETE", "/v2.0/security-groups/sg/tags/one"),
        ("DELETE", "/v2.0/security-groups/sg/tags/gone"),
    ]


def test_ports_are_asked_for_by_all_their_names_at_once() -> None:
    shown = {"id": "p", "name": "octavia-lb-vrrp-a", "project_id": "octavia", "network_id": "n", "device_id": ""}
    shown |= {"device_owner": "", "mac_address": "fa:16:3e:00:00:01"}
    calls = Calls((200, {"ports": [{**shown, "admin_state_up": False, "revision_number": 3}]}))  # type: ignore[abstract]
    calls.neutron = Network(Service(calls.answers, SERVICE))  # type: ignore[arg-type]
    (found,) = calls.ports_named(["octavia-lb-vrrp-a", "octavia-lb-a"])
    assert (found.id, found.revision) == ("p", 3)
    assert calls.answers.asked[0]["params"]["name"] == ["octavia-lb-a", "octavia-lb-vrrp-a"]
    assert calls.ports_named([]) == [], "without a name, Neutron lists every port"
    assert len(calls.answers.asked) == 1


def a_port(*answers: tuple[int, Any]) -> tuple[Calls, Port]:
    """Return Neutron's calls, and a port that was read earlier."""
    calls = Calls(*answers)  # type: ignore[abstract]
    calls.neutron = Network(Service(calls.answers, "network"))  # type: ignore[arg-type]
    return calls, Port("p", "octavia-lb-vrrp-a", "octavia", "n", "", "", "fa:16:3e:00:00:01", True, 3)


def test_a_missing_port_cannot_be_disabled_and_needs_no_deletion() -> None:
    calls, port = a_port(*[(404, {"NeutronError": {"type": "PortNotFound"}})] * 4)
    with pytest.raises(NotFoundError):
        calls.disable_port(port)
    calls.delete_port(port)


@pytest.mark.parametrize("call", ["disable_port", "delete_port"])
def test_a_port_that_has_changed_stays(call: str) -> None:
    shown = {"id": "p", "name": "octavia-lb-vrrp-a", "project_id": "octavia", "network_id": "n", "device_id": "s"}
    shown |= {"device_owner": "compute:nova", "mac_address": "fa:16:3e:00:00:01"}
    calls, port = a_port((412, {}), (200, {"port": {**shown, "admin_state_up": True, "revision_number": 4}}))
    with pytest.raises(UnavailableException) as changed:
        getattr(calls, call)(port)
    assert changed.value.dependency == "port:p"


class _OfProject:
    """Credentials for a project."""

    def __init__(self, project: str | None) -> None:
        self._project = project

    def project(self) -> str | None:
        return self._project


@pytest.mark.parametrize(("ours", "found"), [("admin", ["1", "2"]), ("octavia", ["1"]), (None, ["1"])])
def test_an_image_counts_only_in_the_projects_that_make_images(ours: str | None, found: list[str]) -> None:
    """Nova gives an image to the project that asks for it, and anybody can copy the properties."""
    driver = ACloud(Answers())
    driver._cloud = _OfProject(ours)  # type: ignore[assignment]
    shown = [
        {"id": str(number), "status": "active", "visibility": "shared", "owner": owner, "stackmend_kept": "yes"}
        for number, owner in enumerate(("octavia", "admin", "another"), 1)
    ]
    driver.glance = Api(Service(Answers((200, {"images": shown})), SERVICE))  # type: ignore[arg-type]
    assert [image.id for image in driver.images()] == found
