"""A private ZooKeeper server."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.servers import packages
from tests.servers.server import HOST, Process, Server, clean_environment

_CLASSES = "/usr/share/java/zookeeper.jar"


class ZooKeeper(Server):
    name = "zookeeper"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        packages.find("zkServer.sh", "zookeeper")
        self._java = packages.find("java", "zookeeper")

    def prepare(self) -> None:
        (self.folder / "zoo.cfg").write_text(
            f"tickTime=2000\ndataDir={self.folder}/data\nclientPort={self.port}\nclientPortAddress={HOST}\n"
            "admin.enableServer=false\n4lw.commands.whitelist=srvr,envi\n"
        )

    def spawn(self) -> Process:
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        # A session waits for a flush of the log to the disk, which takes seconds on a busy machine.
        options = ("-Xmx128m", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no")
        machine: list[str | Path] = [self._java, *options, "-cp", _CLASSES]
        return Process([*machine, main, self.folder / "zoo.cfg"], clean_environment(HOME=str(self.folder)), self.log)

    def answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as connection:
                # It answers "ruok" before it serves requests.
                connection.sendall(b"srvr")
                return b"Mode: standalone" in connection.makefile("rb").read()
        except OSError:
            return False
