"""A board in etcd: one key for each job, and a key with the number of the last job.

Source: ``taskflow/jobs/backends/impl_etcd.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from handlers.octavia.jobboard.board import Board, Job, never_posted, unavailable

_ROOT = "/taskflow/jobs"


class EtcdBoard(Board):
    """:param connect: returns an ``etcd3gw.Etcd3Client``
    :param path: the path of the board, below the root of all boards
    """

    packages = ("etcd3gw",)

    def __init__(self, connect: Callable[[], Any], path: str) -> None:
        self._connect = connect
        self._path = f"{_ROOT}/{path.strip('/')}"

    def jobs(self) -> list[Job]:
        from etcd3gw.exceptions import Etcd3Exception

        try:
            client = self._connect()
            count = client.get(f"{self._path}/sequence")
            found = client.get_prefix(f"{self._path}/job")
        except (Etcd3Exception, OSError) as error:
            raise unavailable(error) from error
        if not count:
            raise never_posted(self._path)
        postings = {key: posting for posting, about in found if (key := _bytes(about["key"])).endswith(b".data")}
        return [Job.of(_bytes(posting), json.loads) for _key, posting in sorted(postings.items())]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def connector(host: str, port: int, options: dict[str, Any]) -> Callable[[], Any]:
    def connect() -> Any:
        from etcd3gw import Etcd3Client

        return Etcd3Client(host=host, port=port, **options)

    return connect
