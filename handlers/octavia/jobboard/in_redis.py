"""A board in Redis.

stackmend can use Octavia's user, or a user with INFO, GET and HGETALL on the keys of the namespace.

When Redis without persistence restarts, it forgets its jobs and the number of the last job. A replica can lack jobs.

Source: ``taskflow/jobs/backends/impl_redis.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from handlers.octavia.jobboard.board import Board, Job, UnreadableBoard, never_posted, unavailable


class RedisBoard(Board):
    """A board in Redis. Thread-safe.

    :param connect: returns a ``redis.Redis`` that decodes nothing
    :param namespace: prefix of the board's keys
    """

    packages = ("redis", "msgpack")

    def __init__(self, connect: Callable[[], Any], namespace: str) -> None:
        self._connect = connect
        self._namespace = namespace

    def jobs(self) -> list[Job]:
        from msgpack import unpackb
        from redis.exceptions import RedisError

        try:
            with self._connect() as client:
                role = client.info("replication").get("role")
                count = client.get(f"{self._namespace}:sequence")
                postings = client.hgetall(f"{self._namespace}:listings")
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if role != "master":
            raise UnreadableBoard(f"the server of Octavia's jobboard is a {role}: name the master in octavia.conf")
        if count is None:
            raise never_posted(self._namespace)
        return [Job.of(posting, partial(unpackb, strict_map_key=False)) for _key, posting in sorted(postings.items())]


def connector(host: str, port: int, options: dict[str, Any]) -> Callable[[], Any]:
    def connect() -> Any:
        from redis import Redis

        return Redis(host, port, **options)

    return connect


def sentinel_connector(
    name: str, sentinels: list[tuple[str, int]], options: dict[str, Any], guarded: dict[str, Any]
) -> Callable[[], Any]:
    """Return the ``connect`` of a board on the Redis server that sentinels name.

    :param guarded: the options for connections to the sentinels
    """

    def connect() -> Any:
        from redis.sentinel import Sentinel

        return Sentinel(sentinels, sentinel_kwargs=guarded, **options).master_for(name)

    return connect
