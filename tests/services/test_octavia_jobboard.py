"""Octavia's jobboard in a real Redis: taskflow posts, claims and consumes the jobs, as Octavia's workers do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis as client
from oslo_config import cfg
from taskflow.jobs import backends
from taskflow.persistence import backends as persistence_backends
from taskflow.persistence import models

from handlers.base import Bus, QueueDepth, Resources, Unavailable
from handlers.octavia import options
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from handlers.octavia.work_queue import WorkQueue
from tests.functional.octavia.mending import findings, grow_older, mend
from tests.functional.octavia.world import House
from tests.servers.redis import Redis, Sentinel
from tests.servers.server import HOST, PASSWORD
from tests.servers.tls import Authority
from tests.waiting import eventually

pytest_plugins = ("tests.functional.octavia.conftest",)

BALANCER, OTHER, AMPHORA = (str(uuid.uuid4()) for _number in range(3))


@pytest.fixture
def namespace() -> str:
    return f"board-{uuid.uuid4().hex[:8]}"


class Octavia:
    """Octavia's workers on a board, by the calls of ``octavia/common/base_taskflow.py``."""

    def __init__(self, server: Redis, namespace: str, **more: Any) -> None:
        given = {"board": "redis", "host": HOST, "port": server.port, "password": PASSWORD, "namespace": namespace}
        self._persistence = persistence_backends.fetch({"connection": "memory"})
        self.board = backends.fetch(namespace, given | more, persistence=self._persistence)
        self.board.connect()

    def post(self, flow: str, store: dict[str, Any]) -> Any:
        name = f"{flow}-{uuid.uuid4()}"
        book = models.LogBook(name)
        book.add(models.FlowDetail(name, str(uuid.uuid4())))
        with closing(self._persistence.get_connection()) as connection:
            connection.save_logbook(book)
        return self.board.post(name, book=book, details={"store": store})

    def finish(self, job: Any, worker: str = "worker-1") -> None:
        self.board.claim(job, worker)
        self.board.consume(job, worker)

    def close(self) -> None:
        self.board.close()


@pytest.fixture
def octavia(redis: Redis, namespace: str) -> Iterator[Octavia]:
    redis.start()
    with closing(Octavia(redis, namespace)) as opened:
        yield opened


def queue(folder: Path, port: int, namespace: str, *more: str) -> WorkQueue:
    """Return Octavia's work queue, idle, with the jobboard of such a file."""
    lines = [
        "[DEFAULT]\ntransport_url = rabbit://u:p@h//\n[haproxy_amphora]\nconnection_max_retries = 9\n[task_flow]",
        f"jobboard_enabled = True\njobboard_backend_hosts = {HOST}\njobboard_backend_port = {port}",
        f"jobboard_backend_namespace = {namespace}",
        *(more or (f"jobboard_backend_password = {PASSWORD}",)),
    ]
    (folder / "octavia.conf").write_text("\n".join(lines) + "\n")
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf([], default_config_files=[])
    conf.set_override("config_file", [str(folder / "octavia.conf")], "octavia")
    found = WorkQueue.from_resources(Resources(conf, Bus(queues=lambda _broker: lambda _queue: QueueDepth(0, 1))))
    assert found.refusal == ""
    return found


@pytest.fixture
def read(redis: Redis, namespace: str, tmp_path: Path) -> Callable[[], str]:
    """Return a function: why a flow may work on the load balancer."""
    work = queue(tmp_path, redis.port, namespace)
    return lambda: work.job({BALANCER, AMPHORA})


def store(balancer: str) -> dict[str, Any]:
    return {"loadbalancer_id": balancer, "loadbalancer": {"loadbalancer_id": balancer, "listeners": []}}


def test_a_job_counts_until_its_flow_has_ended(octavia: Octavia, read: Callable[[], str]) -> None:
    job = octavia.post("get_update_load_balancer_flow", store(BALANCER))
    assert job.name in read()
    octavia.board.claim(job, "worker-1")
    assert job.name in read()
    octavia.board.abandon(job, "worker-1")
    assert job.name in read()
    octavia.finish(job)
    assert read() == ""


def test_a_claim_that_has_expired_leaves_the_job_to_another_worker(octavia: Octavia, read: Callable[[], str]) -> None:
    job = octavia.post("get_failover_LB_flow", store(BALANCER))
    octavia.board.claim(job, "worker-1", expiry=1)
    eventually(lambda: job.state == "UNCLAIMED")
    assert job.name in read()


@pytest.mark.parametrize(
    ("posted", "counts"),
    [
        (store(BALANCER), True),
        (store(OTHER), False),
        ({"amphora": {"id": AMPHORA, "load_balancer_id": None}, "amphora_id": AMPHORA}, True),
        ({"amphora": {"id": OTHER, "load_balancer_id": BALANCER}}, True),
        ({"amphora": {"id": OTHER, "load_balancer_id": None}}, False),
        # the failover of an amphora on no load balancer
        ({"loadbalancer_id": None, "loadbalancer": None}, True),
        # the deletion of an amphora
        ({}, True),
    ],
)
def test_a_job_counts_for_the_objects_that_it_names(
    octavia: Octavia, read: Callable[[], str], posted: dict[str, Any], counts: bool
) -> None:
    octavia.post("flow", posted)
    assert bool(read()) == counts


def test_a_board_on_which_nothing_was_ever_posted_proves_nothing(
    octavia: Octavia, redis: Redis, tmp_path: Path
) -> None:
    octavia.finish(octavia.post("flow", store(OTHER)))
    assert "no job was ever posted" in queue(tmp_path, redis.port, "octavia_jobboard").job({BALANCER})


def test_a_job_that_cannot_be_decoded_counts_and_stays(
    octavia: Octavia, redis: Redis, namespace: str, read: Callable[[], str]
) -> None:
    octavia.finish(octavia.post("flow", store(OTHER)))
    with client.Redis(HOST, redis.port, password=PASSWORD) as raw:
        raw.hset(f"{namespace}:listings", "key", b"\xc1 of a later release")
        assert "cannot decode" in read()
        assert raw.hlen(f"{namespace}:listings") == 1


def test_reading_writes_nothing(octavia: Octavia, redis: Redis, namespace: str, tmp_path: Path) -> None:
    """Its user may only read the keys of the namespace."""
    job = octavia.post("flow", store(BALANCER))
    with client.Redis(HOST, redis.port, password=PASSWORD) as raw:
        rules = ["reset", "on", ">reads", f"~{namespace}:*", "+info", "+get", "+hgetall"]
        raw.execute_command("ACL", "SETUSER", "reader", *rules)
        before = {key: raw.dump(key) for key in raw.keys(f"{namespace}*")}
        credentials = ("jobboard_backend_username = reader", "jobboard_backend_password = reads")
        assert job.name in queue(tmp_path, redis.port, namespace, *credentials).job({BALANCER})
        assert {key: raw.dump(key) for key in raw.keys(f"{namespace}*")} == before


def test_a_server_that_does_not_answer_proves_nothing(octavia: Octavia, redis: Redis, read: Callable[[], str]) -> None:
    octavia.finish(octavia.post("flow", store(OTHER)))
    redis.kill()
    with pytest.raises(Unavailable, match="octavia-jobboard: it does not answer") as raised:
        read()
    assert PASSWORD not in str(raised.value)
    redis.start()
    assert read() == ""


def test_a_wrong_password_proves_nothing(redis: Redis, namespace: str, tmp_path: Path) -> None:
    redis.start()
    work = queue(tmp_path, redis.port, namespace, "jobboard_backend_password = another-secret")
    with pytest.raises(Unavailable) as raised:
        work.job({BALANCER})
    assert "another-secret" not in str(raised.value)


def test_a_replica_proves_nothing(octavia: Octavia, redis: Redis, servers_folder: Path, tmp_path: Path) -> None:
    octavia.finish(octavia.post("flow", store(OTHER)))
    replica = Redis(servers_folder / "redis-replica")
    replica.start()
    try:
        with client.Redis(HOST, replica.port, password=PASSWORD) as raw:
            raw.replicaof(HOST, str(redis.port))
        assert "is a slave" in queue(tmp_path, replica.port, octavia.board.namespace).job({BALANCER})
    finally:
        replica.stop()


def test_a_sentinel_names_the_server(
    octavia: Octavia, redis: Redis, namespace: str, servers_folder: Path, tmp_path: Path
) -> None:
    job = octavia.post("flow", store(BALANCER))
    sentinel = Sentinel(servers_folder / "sentinel", redis)
    sentinel.start()
    try:
        more = ("jobboard_redis_sentinel = board", f"jobboard_backend_password = {PASSWORD}")
        work = queue(tmp_path, sentinel.port, namespace, *more)
        assert job.name in work.job({BALANCER})
        octavia.finish(job)
        assert work.job({BALANCER}) == ""
    finally:
        sentinel.stop()


def test_a_board_with_tls(servers_folder: Path, namespace: str, tmp_path: Path) -> None:
    authority = Authority(servers_folder / "redis-authority", "redis")
    server = Redis(servers_folder / "redis-tls", authority.certify())
    server.start()
    try:
        with closing(Octavia(server, namespace, ssl=True, ssl_ca_certs=str(authority.file))) as octavia:
            job = octavia.post("flow", store(BALANCER))
            secret = f"jobboard_backend_password = {PASSWORD}"
            with_tls = f"jobboard_redis_backend_ssl_options = ssl:True,ssl_ca_certs:{authority.file},ssl_keyfile:None"
            assert job.name in queue(tmp_path, server.port, namespace, secret, with_tls).job({BALANCER})
        strange = Authority(servers_folder / "redis-stranger", "stranger")
        for given in (secret, f"{secret}\njobboard_redis_backend_ssl_options = ssl:True,ssl_ca_certs:{strange.file}"):
            with pytest.raises(Unavailable):
                queue(tmp_path, server.port, namespace, given).job({BALANCER})
    finally:
        server.stop()


def test_a_stuck_load_balancer_is_freed_once_its_job_is_gone(
    house: House, octavia: Octavia, redis: Redis, namespace: str, tmp_path: Path
) -> None:
    balancer, other = house.octavia.add_load_balancer(), house.octavia.add_load_balancer()
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    octavia.post("get_update_load_balancer_flow", store(other))
    job = octavia.post("get_update_load_balancer_flow", store(balancer))
    handler = StuckLoadBalancers(house.driver, queue(tmp_path, redis.port, namespace), 1800.0)
    (finding,) = findings(handler)
    assert not finding.healable
    assert job.name in finding.refusal
    octavia.finish(job)
    mend(handler)
    house.assert_whole(balancer)
