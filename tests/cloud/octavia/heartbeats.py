"""Heartbeats of amphorae that have no agent: sent by UDP, signed as Octavia's agent signs them."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
import zlib
from types import TracebackType

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.servers.server import HOST, PASSWORD

#: seconds between two heartbeats; real amphorae take ten
INTERVAL = 2.0


class Heartbeats:
    """A heart for each of some amphorae, beating until it is stopped."""

    def __init__(self, cloud: ControlPlane) -> None:
        self._cloud = cloud
        self._beating: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def start(self, *amphorae: str) -> None:
        """Let these live, and wait until Octavia's health manager has heard of them."""
        self._beating |= set(amphorae)
        for amphora in amphorae:
            known = f"SELECT 1 FROM amphora_health WHERE amphora_id = '{amphora}'"
            wait_until(lambda known=known: self._cloud.mariadb.execute(known, "octavia"), 90, "a heartbeat")  # type: ignore[misc]

    def only(self, amphorae: set[str]) -> None:
        """Let exactly these live."""
        self._beating = set(amphorae)

    def stop(self, *amphorae: str, silent: int = 0) -> None:
        """Let these fall silent, and some seconds pass for them."""
        self._beating -= set(amphorae)
        time.sleep(INTERVAL)  # what is under way arrives
        for amphora in amphorae:
            self._cloud.mariadb.execute(
                f"UPDATE amphora_health SET last_update = utc_timestamp() - INTERVAL {silent} SECOND"
                f" WHERE amphora_id = '{amphora}'",
                "octavia",
            )

    def _beat(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            while not self._end.wait(INTERVAL):
                for amphora in list(self._beating):
                    udp.sendto(_envelope(amphora), (HOST, self._cloud.health_port))

    def __enter__(self) -> Heartbeats:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()


def _envelope(amphora: str) -> bytes:
    message = {"id": amphora, "seq": 1, "ver": 3, "listeners": {}, "pools": {}, "recv_time": time.time()}
    payload = zlib.compress(json.dumps(message).encode(), 9)
    return payload + hmac.new(PASSWORD.encode(), payload, hashlib.sha256).hexdigest().encode()
