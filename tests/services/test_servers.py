"""The private servers themselves: that one which is killed has ended when its test goes on."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from tests.servers.server import HOST, Process, clean_environment, free_port, wait_for

#: listens in a child, as workers do, whose memory takes the kernel a while to take back
_PROGRAM = """
import os, socket, sys, time
if os.fork() == 0:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    held = bytearray(os.urandom(1) * 800_000_000)
    open(sys.argv[2], "w").close()
    time.sleep(600)
else:
    time.sleep(600)
"""


def test_the_port_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    port, ready = free_port(), tmp_path / "ready"
    process = Process([sys.executable, "-c", _PROGRAM, str(port), ready], clean_environment(), tmp_path / "log")
    wait_for(ready.exists, 60, "the child")
    process.kill()
    with socket.create_server((HOST, port)):
        pass
