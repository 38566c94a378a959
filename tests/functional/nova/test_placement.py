from __future__ import annotations

import http.server
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from keystoneauth1 import session, token_endpoint

from handlers.access.cloud import Cloud
from handlers.base import Conflict, Refused, Resources, Unavailable
from handlers.nova.placement import Allocation, Placement
from handlers.nova.simulation import NovaSimulation


@pytest.fixture
def placement(resources: Resources) -> Placement:
    return Placement.from_resources(resources)


def client(url: str, timeout: float | None = None) -> Placement:
    auth = token_endpoint.Token(url, "admin")
    return Placement(Cloud(session.Session(auth=auth, timeout=timeout)).service("placement"))


class _Answer(http.server.BaseHTTPRequestHandler):
    def answer(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[http.server.HTTPServer]:
    """A server that always gives the same answer."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_consumer_and_its_type(cloud: NovaSimulation, placement: Placement) -> None:
    cloud.add_compute("a", "cell1")
    server = cloud.boot("a")
    held = placement.allocation(server)
    assert held.providers == cloud.allocation(server)
    assert (held.project_id, held.user_id, held.consumer_type) == (cloud.PROJECT, cloud.USER, "unknown")
    assert held.generation is not None
    assert placement.holders(cloud.node("a").uuid) == {server}


def test_an_unknown_consumer_holds_nothing(placement: Placement) -> None:
    consumer = str(uuid.uuid4())
    assert placement.allocation(consumer) == Allocation(consumer)
    assert placement.holders(str(uuid.uuid4())) == frozenset()
    assert placement.aggregates(str(uuid.uuid4())) is None


def test_a_404_of_another_server_proves_nothing(proxy: http.server.HTTPServer) -> None:
    placement = client(f"http://127.0.0.1:{proxy.server_port}")
    for body in (b"", b"<h1>Not Found</h1>", b"{}", b'{"errors": "no"}', b"[]"):
        proxy.answer = (404, body)  # type: ignore[attr-defined]
        for read in (placement.consumers, placement.inventories, placement.aggregates):
            with pytest.raises(Unavailable, match="answered 404"):
                read(str(uuid.uuid4()))


def test_an_old_placement_without_types(
    cloud: NovaSimulation, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.add_compute("a", "cell1")
    server = cloud.boot("a")
    read = placement._service.read
    asked: list[str] = []

    def old(url: str, microversion: str) -> object:
        asked.append(microversion)
        return read(url, microversion="1.99" if microversion == "1.38" else microversion)

    monkeypatch.setattr(placement._service, "read", old)
    for _ in range(2):
        assert placement.allocation(server).consumer_type is None
    assert asked == ["1.38", "1.28", "1.28"]


def test_replacing_is_compare_and_set(cloud: NovaSimulation, placement: Placement) -> None:
    cloud.add_compute("a", "cell1")
    server = cloud.boot("a")
    held = placement.allocation(server)
    cloud.hold(server, {cloud.node("a").uuid: {"VCPU": 2}})
    with pytest.raises(Conflict):
        placement.replace_allocation(held, {})
    placement.replace_allocation(placement.allocation(server), {})
    assert cloud.allocation(server) == {}
    with pytest.raises(Conflict):
        placement.replace_allocation(held, {})


def test_a_refusal_of_placement_is_refused(cloud: NovaSimulation, placement: Placement) -> None:
    cloud.add_compute("a", "cell1")
    server = cloud.boot("a")
    with pytest.raises(Refused, match="400"):
        placement.replace_allocation(placement.allocation(server), {str(uuid.uuid4()): {"VCPU": 1}})
    with pytest.raises(Refused, match="409"):
        placement.replace_allocation(placement.allocation(server), {cloud.node("a").uuid: {"VCPU": 100000}})


def test_a_restart_between_two_reads_is_not_seen(cloud: NovaSimulation, placement: Placement) -> None:
    consumer = str(uuid.uuid4())
    placement.allocation(consumer)
    cloud.placement.stop()
    cloud.placement.start()
    assert placement.allocation(consumer) == Allocation(consumer)


def test_a_dead_placement_is_unavailable(cloud: NovaSimulation, placement: Placement) -> None:
    cloud.placement.stop()
    with pytest.raises(Unavailable, match="placement: no connection to http"):
        placement.allocation(str(uuid.uuid4()))


@pytest.mark.parametrize("status", [500, 401, 403, 418])
def test_no_answer_of_the_service_itself(proxy: http.server.HTTPServer, status: int) -> None:
    proxy.answer = (status, b"no")  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match=str(status)):
        client(f"http://127.0.0.1:{proxy.server_port}").compute_providers()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_back_end_is_asked_again_to_read_only(proxy: http.server.HTTPServer, status: int) -> None:
    proxy.answer = (status, b"no")  # type: ignore[attr-defined]
    placement = client(f"http://127.0.0.1:{proxy.server_port}")
    with pytest.raises(Unavailable):
        placement.compute_providers()
    assert proxy.asked > 1  # type: ignore[attr-defined]
    proxy.asked = 0  # type: ignore[attr-defined]
    with pytest.raises(Unavailable):
        placement.replace_allocation(Allocation("x"), {})
    assert proxy.asked == 1  # type: ignore[attr-defined]


def test_a_page_is_not_an_answer(proxy: http.server.HTTPServer) -> None:
    proxy.answer = (200, b"<html>maintenance</html>")  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="not JSON"):
        client(f"http://127.0.0.1:{proxy.server_port}").compute_providers()


def test_a_service_without_an_answer() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, pytest.raises(Unavailable, match="ConnectTimeout"):
        client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2).compute_providers()


def test_one_session_for_many_threads(cloud: NovaSimulation, placement: Placement) -> None:
    cloud.add_compute("a", "cell1")
    servers = [cloud.boot("a") for _ in range(8)]
    seen: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda server=server: seen.update({server: placement.allocation(server).providers}))
        for server in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {server: cloud.allocation(server) for server in servers}


class Counting:
    """A service that counts the requests it serves at one time."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()

    def read(self, url: str, **arguments: object) -> requests.Response:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1
        answer = requests.Response()
        answer.status_code = 404
        answer._content = b'{"errors": []}'
        return answer


def test_placement_gets_few_requests_at_a_time() -> None:
    """Whoever asks: sweeps ask for many nodes side by side, and many instances are looked at at once."""
    service = Counting()
    placement = Placement(service)  # type: ignore[arg-type]
    askers = [
        threading.Thread(target=placement.consumers_of_each, args=([str(number) for number in range(9)],))
        for _ in "abc"
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert 1 < service.most <= 3


class Slow(Counting):
    """A service that answers requests about an instance only after the event ``answers``."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def read(self, url: str, **arguments: object) -> requests.Response:
        if url.startswith("/allocations/"):
            assert self.answers.wait(30)
        return super().read(url, **arguments)


def test_a_sweep_does_not_wait_for_inspections() -> None:
    service = Slow()
    placement = Placement(service)  # type: ignore[arg-type]
    lookers = [threading.Thread(target=placement.allocation, args=("instance",), daemon=True) for _ in range(9)]
    for looker in lookers:
        looker.start()
    asked = ThreadPoolExecutor(1).submit(placement.consumers_of_each, ["a", "b"])
    assert asked.result(20) == {"a": {}, "b": {}}
    assert all(looker.is_alive() for looker in lookers)
    service.answers.set()
    for looker in lookers:
        looker.join(30)
    assert service.most <= 3
