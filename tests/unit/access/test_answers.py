"""What Neutron and Cinder answer, and what it proves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import requests

from handlers.access.cinder import Storage
from handlers.access.cloud import Service
from handlers.access.neutron import Network
from handlers.base import Unavailable

Answer = tuple[int, Any]

#: how Neutron's policy hides a port from the credentials (``neutron/pecan_wsgi/hooks/policy_enforcement.py``)
HIDDEN = {"type": "HTTPNotFound", "message": "The resource could not be found.", "detail": ""}
OF_PROXY = "<html><h1>404 Not Found</h1></html>"


def error(kind: str) -> Any:
    return {"NeutronError": {"type": kind, "message": "", "detail": ""}}


class Server:
    """Stands in for keystoneauth's adapter: gives the last answer again and again."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.endpoint_override = "http://server"

    def request(self, _url: str, _method: str, **_arguments: Any) -> requests.Response:
        status, body = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        response = requests.Response()
        response.status_code = status
        response._content = (body if isinstance(body, str) else json.dumps(body)).encode()
        return response


def network(*answers: Answer) -> Network:
    return Network(Service(Server(*answers), "network"))  # type: ignore[arg-type]


def storage(*answers: Answer) -> Storage:
    return Storage(Service(Server(*answers), "block-storage"))  # type: ignore[arg-type]


def test_a_port_does_not_exist_if_neutron_says_so() -> None:
    assert network((404, error("PortNotFound"))).port("p") is None
    assert network((404, error("PortNotFound"))).bindings("p") == []


@pytest.mark.parametrize("body", [HIDDEN, error("HTTPNotFound"), {}, [], OF_PROXY], ids=str)
@pytest.mark.parametrize("read", [Network.port, Network.bindings])
def test_a_404_that_is_no_proof_leaves_a_port_unknown(read: Callable[[Network, str], object], body: Any) -> None:
    with pytest.raises(Unavailable):
        read(network((404, body), (200, {"extension": {"alias": "binding-extended"}})), "p")


def test_without_the_extension_a_port_has_no_bindings() -> None:
    missing = (404, error("HTTPNotFound"))
    assert network(missing, missing).bindings("p") == []


@pytest.mark.parametrize("body", [{}, OF_PROXY], ids=str)
def test_a_404_of_another_server_leaves_an_extension_unknown(body: Any) -> None:
    with pytest.raises(Unavailable):
        network((404, body)).has("port-resource-request")


NEXT = {"ports_links": [{"rel": "next", "href": "http://server"}]}
LISTINGS: list[tuple[Callable[[Answer], Iterable[object]], str]] = [
    (lambda answer: network(answer).ports({}), "ports"),
    (lambda answer: storage(answer).attachments(), "attachments"),
    (lambda answer: storage(answer).volumes(), "volumes"),
]


@pytest.mark.parametrize(("read", "name"), LISTINGS, ids=[name for _read, name in LISTINGS])
def test_a_server_that_repeats_a_page_gives_no_complete_listing(
    read: Callable[[Answer], Iterable[object]], name: str
) -> None:
    row = {"id": "a", "volume_id": "v"}
    with pytest.raises(Unavailable):
        list(read((200, {name: [row], **NEXT})))


@pytest.mark.parametrize("rows", [None, {}, "ports", [None], [{}], [{"id": None}], ["a"]], ids=str)
@pytest.mark.parametrize(("read", "name"), LISTINGS, ids=[name for _read, name in LISTINGS])
def test_an_answer_without_objects_is_no_empty_listing(
    read: Callable[[Answer], Iterable[object]], name: str, rows: Any
) -> None:
    with pytest.raises(Unavailable):
        list(read((200, {name: rows})))


@pytest.mark.parametrize("port", [None, [], {}, "p"], ids=str)
def test_an_answer_without_a_port_leaves_the_port_unknown(port: Any) -> None:
    with pytest.raises(Unavailable):
        network((200, {"port": port})).port("p")
