"""A board in ZooKeeper: one node for each job below the path of the board.

The path exists once a worker has started. Its node counts the changes of its children. A server can lag behind the leader, so
stackmend first lets it catch up.

Source: ``taskflow/jobs/backends/impl_zookeeper.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from handlers.octavia.jobboard.board import TIMEOUT, Board, Job, never_posted, unavailable


class ZooKeeperBoard(Board):
    """:param connect: returns a ``kazoo.client.KazooClient`` that is not started"""

    packages = ("kazoo",)

    def __init__(self, connect: Callable[[], Any], path: str) -> None:
        self._connect = connect
        self._path = path

    def jobs(self) -> list[Job]:
        from kazoo.exceptions import KazooException, NoNodeError

        client = self._connect()
        postings = []
        try:
            client.start(timeout=TIMEOUT)
            client.sync(self._path)
            children, stat = client.get_children(self._path, include_data=True)
            for child in sorted(children):
                if child.startswith("job") and not child.endswith(".lock"):
                    with suppress(NoNodeError):  # its flow has just ended
                        postings.append(client.get(f"{self._path}/{child}")[0])
        except NoNodeError:
            raise never_posted(self._path) from None
        except (KazooException, OSError, client.handler.timeout_exception) as error:
            raise unavailable(error) from error
        finally:
            client.stop()
            client.close()
        if not stat.cversion:
            raise never_posted(self._path)
        return [Job.of(posting, json.loads) for posting in postings]


def connector(hosts: list[str], port: int, options: dict[str, Any]) -> Callable[[], Any]:
    def connect() -> Any:
        from kazoo.client import KazooClient

        return KazooClient(",".join(f"{host}:{port}" for host in hosts), timeout=TIMEOUT, **options)

    return connect
