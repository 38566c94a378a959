"""Octavia's jobboard: the flows that a worker carries on, even one that another worker began before it died.

With ``[task_flow] jobboard_enabled``, a worker posts each flow as a job. Any worker claims the job, and removes it when the
flow has ended. So a flow carries on if and only if its job is on the board. taskflow's persistence proves less: it keeps flows
that no worker carries on, and with ``jobboard_save_logbook`` every flow.

A job names its load balancer or amphora in its details. Only the job that deletes an amphora names nothing.

stackmend reads boards in Redis. It does not read through taskflow, because taskflow deletes a job that it cannot decode
(``_fetch_jobs`` in ``taskflow/jobs/backends/impl_redis.py``). Octavia's credentials suffice; a user with the commands INFO, GET
and HGETALL on the keys of the namespace does too.

An empty board proves something only if it is Octavia's board. So it must count the jobs that were ever posted, and the server
must be no replica. Redis without persistence forgets the count when it restarts.

Sources: ``octavia/common/base_taskflow.py`` (run_poster), ``octavia/controller/worker/v2/taskflow_jobboard_driver.py``,
``octavia/controller/worker/v2/controller_worker.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from oslo_config import types

from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Unavailable

DEPENDENCY = "octavia-jobboard"

#: the driver that stackmend reads, and the values that Octavia has by default (``octavia/common/config.py``)
_REDIS = "redis_taskflow_driver"
_PORT = 6379
_NAMESPACE = "octavia_jobboard"

#: seconds for which Redis may be silent
_TIMEOUT = 10.0

_TLS = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs")


class UnreadableBoard(Exception):
    """Octavia's jobboard proves nothing; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the board.

    :param name: the flow and a number
    :param posting: the job as it is posted; never shown, because it may hold secrets
    :param named: whether the job names a load balancer or an amphora
    """

    name: str
    posting: bytes = field(repr=False)
    named: bool = True

    def concerns(self, identities: Collection[str]) -> bool:
        return any(identity.encode() in self.posting for identity in identities)


class Board(ABC):
    @abstractmethod
    def jobs(self) -> list[Job]:
        """Return the jobs that workers carry on or will carry on.

        :raises UnreadableBoard: the board proves nothing
        :raises Unavailable: the board does not answer
        """

    def job_of(self, identities: Collection[str]) -> str:
        """Return why a flow may work on one of these objects; empty if the board proves that none does.

        :raises Unavailable: the board does not answer
        """
        try:
            jobs = self.jobs()
        except UnreadableBoard as error:
            return str(error)
        for job in jobs:
            if job.concerns(identities):
                return f"Octavia's jobboard has its job {job.name}, which a worker carries on: see the logs of octavia-worker"
        for job in jobs:
            if not job.named:
                return f"Octavia's jobboard has job {job.name}, which names no load balancer, so it may be its"
        return ""


class RedisBoard(Board):
    """A board in Redis. Thread-safe.

    :param connect: returns a ``redis.Redis`` that decodes nothing
    :param namespace: prefix of the board's keys
    """

    def __init__(self, connect: Callable[[], Any], namespace: str) -> None:
        self._connect = connect
        self._namespace = namespace

    def jobs(self) -> list[Job]:
        from redis.exceptions import RedisError

        try:
            with self._connect() as client:
                role = client.info("replication").get("role")
                count = client.get(f"{self._namespace}:sequence")
                postings = client.hgetall(f"{self._namespace}:listings")
        except (RedisError, OSError) as error:
            raise Unavailable(DEPENDENCY, f"it does not answer: {error}") from error
        if role != "master":
            raise UnreadableBoard(f"the server of Octavia's jobboard is a {role}: name the master in octavia.conf")
        if count is None:
            raise UnreadableBoard(
                f"no job was ever posted to jobboard {self._namespace}: octavia.conf names another board, or Redis lost its "
                "data; the next request to Octavia posts a job"
            )
        return [_job(posting) for _key, posting in sorted(postings.items())]


def _job(posting: bytes) -> Job:
    import msgpack

    try:
        read = msgpack.unpackb(posting, strict_map_key=False)
        return Job(str(read["name"]), posting, _names_an_object(read["details"]["store"]))
    except (ValueError, TypeError, KeyError, LookupError):
        return Job("that stackmend cannot decode", posting, named=False)


def _names_an_object(store: Mapping[str, Any]) -> bool:
    return any(isinstance(store.get(name), str) for name in ("loadbalancer_id", "amphora_id")) or bool(
        store.get("loadbalancer") or store.get("amphora")
    )


def board_of(files: ServiceFiles) -> Board:
    """Return the jobboard that Octavia's files name.

    :raises UnreadableBoard: stackmend cannot read this board
    :raises ConfigError: a value in the files is malformed
    """
    driver = files.get("task_flow", "jobboard_backend_driver") or _REDIS
    if driver != _REDIS:
        raise UnreadableBoard(f"stackmend reads jobboards in Redis only, and Octavia's is of {driver}")
    if find_spec("redis") is None or find_spec("msgpack") is None:
        raise UnreadableBoard("stackmend cannot read Octavia's jobboard: install stackmend[jobboard]")
    hosts = [
        host.strip() for host in (files.get("task_flow", "jobboard_backend_hosts") or "").split(",") if host.strip()
    ]
    if not hosts:
        raise UnreadableBoard(
            f"the host of Octavia's jobboard is unknown: copy the group [task_flow] of Octavia's own file to {files}, with "
            "jobboard_backend_hosts"
        )
    return RedisBoard(_connector(files, hosts), files.get("task_flow", "jobboard_backend_namespace") or _NAMESPACE)


def _connector(files: ServiceFiles, hosts: list[str]) -> Callable[[], Any]:
    port = _number(files, "jobboard_backend_port", _PORT)
    options: dict[str, Any] = {
        "db": _number(files, "jobboard_redis_backend_db", 0),
        "socket_timeout": _TIMEOUT,
        "socket_connect_timeout": _TIMEOUT,
        **_credentials(files, "jobboard_backend"),
        **_tls(files, "jobboard_redis_backend_ssl_options"),
    }
    name = files.get("task_flow", "jobboard_redis_sentinel")
    sentinels = [(host, port) for host in hosts]
    guarded = {
        "socket_timeout": _TIMEOUT,
        **_credentials(files, "jobboard_redis_sentinel"),
        **_tls(files, "jobboard_redis_sentinel_ssl_options"),
    }

    def connect() -> Any:
        from redis import Redis
        from redis.sentinel import Sentinel

        if name is None:
            return Redis(hosts[0], port, **options)
        return Sentinel(sentinels, sentinel_kwargs=guarded, **options).master_for(name)

    return connect


def _credentials(files: ServiceFiles, prefix: str) -> dict[str, str]:
    given = {name: files.get("task_flow", f"{prefix}_{name}") for name in ("username", "password")}
    return {name: value for name, value in given.items() if value is not None}


def _tls(files: ServiceFiles, name: str) -> dict[str, Any]:
    text = files.get("task_flow", name)
    if text is None:
        return {}
    try:
        given = types.Dict(types.String())(text)
        uses = types.Boolean()(given.get("ssl", "false"))
    except ValueError:
        raise ConfigError(f"{files}: [task_flow] {name} is malformed") from None
    if not uses:
        return {}
    return {"ssl": True, **{option: given[option] for option in _TLS if given.get(option) not in {None, "", "None"}}}


def _number(files: ServiceFiles, name: str, default: int) -> int:
    value = files.get("task_flow", name)
    if value is None:
        return default
    if not value.isdecimal():
        raise ConfigError(f"{files}: [task_flow] {name} = {value} is not a number")
    return int(value)
