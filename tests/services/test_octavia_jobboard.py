"""Octavia's jobboard on real servers: taskflow posts, claims and consumes the jobs, as Octavia's workers do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import etcd3gw
import pytest
import redis as client
from oslo_config import cfg
from taskflow.jobs import backends
from taskflow.persistence import backends as persistence_backends
from taskflow.persistence import models

from handlers.base import Bus, QueueDepth, Resources, Unavailable
from handlers.octavia import options
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from handlers.octavia.work_queue import WorkQueue
from tests.functional.octavia.mending import findings, grow_older, mend
from tests.functional.octavia.world import House
from tests.servers.etcd import Etcd
from tests.servers.redis import Redis, Sentinel
from tests.servers.server import HOST, PASSWORD, Server
from tests.servers.tls import Authority
from tests.servers.zookeeper import ZooKeeper
from tests.waiting import eventually

BALANCER, OTHER, AMPHORA = (str(uuid.uuid4()) for _number in range(3))


@pytest.fixture
def namespace() -> str:
    return f"board-{uuid.uuid4().hex[:8]}"


class Octavia:
    """Octavia's workers on a board, by the calls of ``octavia/common/base_taskflow.py``.

    :param settings: of the board, as ``octavia/controller/worker/v2/taskflow_jobboard_driver.py`` makes them
    """

    def __init__(self, server: Server, settings: dict[str, Any]) -> None:
        self.server = server
        self._persistence = persistence_backends.fetch({"connection": "memory"})
        self.board = backends.fetch("board", settings, persistence=self._persistence)
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


def in_redis(server: Redis, namespace: str) -> dict[str, Any]:
    return {"board": "redis", "host": HOST, "port": server.port, "password": PASSWORD, "namespace": namespace}


def in_zookeeper(server: ZooKeeper, namespace: str) -> dict[str, Any]:
    return {"board": "zookeeper", "path": f"/{namespace}", "hosts": f"{HOST}:{server.port}"}


def in_etcd(server: Etcd, namespace: str) -> dict[str, Any]:
    return {"board": "etcd", "host": HOST, "port": server.port, "path": namespace, "ttl": 30}


SETTINGS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "redis": in_redis,
    "zookeeper": in_zookeeper,
    "etcd": in_etcd,
}


@pytest.fixture
def octavia(redis: Redis, namespace: str) -> Iterator[Octavia]:
    redis.start()
    with closing(Octavia(redis, in_redis(redis, namespace))) as opened:
        yield opened


@pytest.fixture(params=sorted(SETTINGS))
def anywhere(request: pytest.FixtureRequest, namespace: str) -> Iterator[Octavia]:
    """Yield Octavia's workers on a board in each kind of server."""
    server = request.getfixturevalue(request.param)
    server.start()
    with closing(Octavia(server, SETTINGS[request.param](server, namespace))) as opened:
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


def chosen(server: Server, namespace: str, folder: Path) -> WorkQueue:
    """Return Octavia's work queue with the board of a server."""
    driver = f"jobboard_backend_driver = {server.name}_taskflow_driver"
    more = (f"jobboard_backend_password = {PASSWORD}",) if server.name == "redis" else ()
    return queue(folder, server.port, namespace, driver, *more)


@pytest.fixture
def read(anywhere: Octavia, namespace: str, tmp_path: Path) -> Callable[[], str]:
    """Return a function: why a flow may work on the load balancer."""
    work = chosen(anywhere.server, namespace, tmp_path)
    return lambda: work.job({BALANCER, AMPHORA})


def is_idle(read: Callable[[], str]) -> bool:
    with suppress(Unavailable):
        return read() == ""
    return False


def store(balancer: str) -> dict[str, Any]:
    return {"loadbalancer_id": balancer, "loadbalancer": {"loadbalancer_id": balancer, "listeners": []}}


def test_a_job_counts_until_its_flow_has_ended(anywhere: Octavia, read: Callable[[], str]) -> None:
    job = anywhere.post("get_update_load_balancer_flow", store(BALANCER))
    assert job.name in read()
    anywhere.board.claim(job, "worker-1")
    assert job.name in read()
    anywhere.board.abandon(job, "worker-1")
    assert job.name in read()
    anywhere.finish(job)
    assert read() == ""


def test_a_claim_that_has_expired_leaves_the_job_to_another_worker(
    octavia: Octavia, namespace: str, tmp_path: Path
) -> None:
    job = octavia.post("get_failover_LB_flow", store(BALANCER))
    octavia.board.claim(job, "worker-1", expiry=1)
    eventually(lambda: job.state == "UNCLAIMED")
    assert job.name in chosen(octavia.server, namespace, tmp_path).job({BALANCER})


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
    anywhere: Octavia, read: Callable[[], str], posted: dict[str, Any], counts: bool
) -> None:
    anywhere.post("flow", posted)
    assert bool(read()) == counts


def test_a_board_on_which_nothing_was_ever_posted_proves_nothing(
    anywhere: Octavia, namespace: str, read: Callable[[], str], tmp_path: Path
) -> None:
    assert "no job was ever posted" in read(), "a worker has started, and posted nothing"
    anywhere.finish(anywhere.post("flow", store(OTHER)))
    assert read() == ""
    another = chosen(anywhere.server, f"{namespace}-of-another-name", tmp_path)
    assert "no job was ever posted" in another.job({BALANCER})


def test_a_job_that_cannot_be_decoded_counts_and_stays(
    anywhere: Octavia, namespace: str, read: Callable[[], str]
) -> None:
    anywhere.finish(anywhere.post("flow", store(OTHER)))
    kept = put(anywhere, namespace, b"\xc1 of a later release")
    assert "cannot decode" in read()
    assert kept()


def put(octavia: Octavia, namespace: str, posting: bytes) -> Callable[[], bool]:
    """Post a job of another form, without taskflow; return a function: whether the job is still posted."""
    raw = octavia.board._client
    match octavia.server.name:
        case "redis":
            raw.hset(f"{namespace}:listings", "key", posting)
            return lambda: bool(raw.hexists(f"{namespace}:listings", "key"))
        case "zookeeper":
            raw.create(f"/{namespace}/job9999999999", posting)
            return lambda: raw.exists(f"/{namespace}/job9999999999") is not None
        case _:
            key = f"/taskflow/jobs/{namespace}/job99.data"
            # outside the view of the board, which would delete it
            octavia.close()
            etcd3gw.Etcd3Client(host=HOST, port=octavia.server.port).put(key, posting)
            return lambda: bool(etcd3gw.Etcd3Client(host=HOST, port=octavia.server.port).get(key))


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


def test_a_server_that_does_not_answer_proves_nothing(anywhere: Octavia, read: Callable[[], str]) -> None:
    anywhere.finish(anywhere.post("flow", store(OTHER)))
    assert read() == ""
    anywhere.server.kill()
    with pytest.raises(Unavailable, match="octavia-jobboard: it does not answer") as raised:
        read()
    assert PASSWORD not in str(raised.value)
    anywhere.server.start()
    # A read that waits too long on a busy machine proves nothing either.
    eventually(lambda: is_idle(read), 300, "the jobboard answers")


def test_a_wrong_password_proves_nothing(redis: Redis, namespace: str, tmp_path: Path) -> None:
    redis.start()
    work = queue(tmp_path, redis.port, namespace, "jobboard_backend_password = another-secret")
    with pytest.raises(Unavailable) as raised:
        work.job({BALANCER})
    assert "another-secret" not in str(raised.value)


def test_a_replica_proves_nothing(
    octavia: Octavia, redis: Redis, namespace: str, servers_folder: Path, tmp_path: Path
) -> None:
    octavia.finish(octavia.post("flow", store(OTHER)))
    replica = Redis(servers_folder / "redis-replica")
    replica.start()
    try:
        with client.Redis(HOST, replica.port, password=PASSWORD) as raw:
            raw.replicaof(HOST, str(redis.port))
        assert "is a slave" in queue(tmp_path, replica.port, namespace).job({BALANCER})
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


def with_ca(authority: Authority) -> dict[str, Any]:
    return {"ssl": True, "ssl_ca_certs": str(authority.file)}


def test_a_board_with_tls(servers_folder: Path, namespace: str, tmp_path: Path) -> None:
    authority = Authority(servers_folder / "redis-authority", "redis")
    server = Redis(servers_folder / "redis-tls", authority.certify())
    server.start()
    try:
        with closing(Octavia(server, in_redis(server, namespace) | with_ca(authority))) as octavia:
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
    octavia: Octavia, redis: Redis, namespace: str, tmp_path: Path
) -> None:
    house = House(OctaviaDatabase(f"sqlite:///{tmp_path}/octavia.sqlite"), HousekeepingSettings())
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
