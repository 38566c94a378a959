"""A private Galera cluster: MariaDB servers on loopback that accept writes at every node."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.servers import packages
from tests.servers.mariadb import MariaDB
from tests.servers.server import HOST, free_port, wait_for


class Node(MariaDB):
    """One node. A node that starts joins the other nodes; Galera transfers the state that the node lacks."""

    name = "galera"

    def __init__(self, folder: Path, provider: Path) -> None:
        super().__init__(folder)
        self._provider = provider
        #: the port of the group communication
        self.group_port = free_port()
        self._incremental_port = free_port()
        self._snapshot_port = free_port()
        self._peers: Sequence[Node] = ()

    def join(self, peers: Sequence[Node]) -> None:
        """Name all nodes of the cluster, this one included."""
        self._peers = peers

    def status(self, name: str) -> str:
        """Return a status variable of Galera, without the prefix ``wsrep_``."""
        return self.execute(f"SHOW STATUS LIKE 'wsrep_{name}'").partition("\t")[2].strip()

    def set_provider(self, option: str) -> None:
        """Change an option of the running provider, for example ``gmcast.isolate=1``."""
        self.execute(f"SET GLOBAL wsrep_provider_options = '{option}'")

    @property
    def account(self) -> str:
        """Not root: rsync, which transfers the state, would then write as another user."""
        return "mysql" if os.geteuid() == 0 else super().account

    def prepare(self) -> None:
        (self.folder / "data").mkdir()
        (self.folder / "tmp").mkdir()
        if os.geteuid() == 0:
            for place in (self.folder, self.folder / "data", self.folder / "tmp"):
                shutil.chown(place, self.account, self.account)
        if self._is_first:  # the other nodes get the data by a state transfer
            super().prepare()

    def _at_start(self) -> list[str]:
        return super()._at_start() if self._is_first else []

    @property
    def _is_first(self) -> bool:
        return not any(node.running for node in self._peers)

    def answers(self) -> bool:
        """Return whether the node has the cluster's state and serves clients."""
        return super().answers() and self.status("local_state_comment") == "Synced"

    def arguments(self) -> list[str]:
        others = [node for node in self._peers if node is not self]
        first = self._is_first
        addresses = ",".join(f"{HOST}:{node.group_port}" for node in others)
        provider_options = {
            "base_host": HOST,
            "base_port": self.group_port,
            "gmcast.listen_addr": f"tcp://{HOST}:{self.group_port}",
            "ist.recv_addr": f"{HOST}:{self._incremental_port}",  # codespell:ignore ist
            "gcache.size": "32M",
            # A dead node leaves the group after seconds, so that the others go on.
            "evs.suspect_timeout": "PT3S",
            "evs.inactive_timeout": "PT6S",
        }
        return [
            *super().arguments(),
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={self._provider}",
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in provider_options.items())}",
            "--wsrep-cluster-name=stackmend",
            f"--wsrep-cluster-address=gcomm://{'' if first else addresses}",
            f"--wsrep-node-address={HOST}:{self.group_port}",
            f"--wsrep-node-incoming-address={HOST}:{self.port}",
            f"--wsrep-node-name=node-{self.port}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address={HOST}:{self._snapshot_port}",
            "--wsrep-slave-threads=2",
            *(["--wsrep-new-cluster"] if first else []),
        ]


class Galera:
    """A cluster of nodes.

    :param count: how many nodes; a majority of them must live
    """

    def __init__(self, folder: Path, count: int = 3) -> None:
        provider = packages.find("libgalera_smm.so", "galera-4")
        self.nodes = [Node(folder / str(number), provider) for number in range(count)]
        for node in self.nodes:
            node.join(self.nodes)

    def start(self) -> None:
        """Start every node that is down, one after the other, and wait until all are in one group."""
        for node in self.nodes:
            node.start()
        wait_for(self._whole, 60, "one group of all nodes")

    def stop(self) -> None:
        """Stop all nodes. They keep no data for another start, because tests need none."""
        for node in self.nodes:
            node.kill()

    def urls(self, database: str) -> list[str]:
        """Return the address of a database on each node."""
        return [node.url(database) for node in self.nodes]

    def settle(self) -> None:
        """Wait until every node has applied all writes of the others."""
        for node in self.nodes:
            node.execute("SET SESSION wsrep_sync_wait = 1; SELECT 1")

    def _whole(self) -> bool:
        return all(node.status("cluster_size") == str(len(self.nodes)) for node in self.nodes)
