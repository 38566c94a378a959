"""A private RabbitMQ cluster: brokers on loopback that share queues and a port mapper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.servers import packages
from tests.servers.rabbitmq import RabbitMQ, listens
from tests.servers.server import HOST, PASSWORD, USER, Process, clean_environment, free_port, wait_for

_COOKIE = "stackmend"


class Node(RabbitMQ):
    """One node. The first node begins the cluster; every other node joins it at its first start."""

    name = "rabbitmq-node"

    def __init__(self, folder: Path, epmd_port: int) -> None:
        super().__init__(folder, epmd_port=epmd_port)
        self._peers: Sequence[Node] = ()

    def join(self, peers: Sequence[Node]) -> None:
        """Name all nodes of the cluster, this one included."""
        self._peers = peers

    def prepare(self) -> None:
        super().prepare()
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(_COOKIE)
        cookie.chmod(0o400)

    def _more(self) -> str:
        # A node that lost the majority serves no client: the value that operators of OpenStack choose.
        lines = "cluster_partition_handling = pause_minority\nmnesia_table_loading_retry_timeout = 5000\n"
        if self is self._peers[0]:
            return lines
        return lines + (
            "cluster_formation.peer_discovery_backend = classic_config\n"
            f"cluster_formation.classic_config.nodes.1 = {self._peers[0].node}\n"
            f"cluster_formation.classic_config.nodes.2 = {self.node}\n"
        )

    @property
    def _kernel(self) -> str:
        # A silent node leaves the cluster after seconds.
        return " -kernel net_ticktime 5"

    def part(self, others: Sequence[Node]) -> None:
        """Cut the line to other nodes, as a broken network does; this node runs and listens."""
        self._know(others, "another")

    def mend(self, others: Sequence[Node]) -> None:
        """Let the other nodes in again."""
        self._know(others, _COOKIE)

    def _know(self, others: Sequence[Node], cookie: str) -> None:
        names = ", ".join(f"'{node.node}'" for node in others)
        self.ctl(
            "eval",
            f"[begin erlang:set_cookie(N, '{cookie}'), erlang:disconnect_node(N) end || N <- [{names}]].",
        )


class RabbitMQCluster:
    """A cluster of three nodes: quorum queues live while two of them do."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._epmd_program = packages.find("epmd", "rabbitmq-server")
        self._epmd_port = free_port()
        self._epmd: Process | None = None
        self.nodes = [Node(folder / str(number), self._epmd_port) for number in range(3)]
        for node in self.nodes:
            node.join(self.nodes)

    def start(self) -> None:
        """Start every node that is down, and wait until all nodes are in one cluster."""
        if self._epmd is None:
            self._epmd = Process(
                [self._epmd_program, "-port", str(self._epmd_port), "-address", HOST],
                clean_environment(HOME=str(self._folder)),
                self._folder / "epmd.log",
            )
            wait_for(lambda: listens(self._epmd_port), 60, "start of epmd")
        for node in self.nodes:
            node.start()
        wait_for(self._whole, 120, "one cluster of all nodes")

    def stop(self) -> None:
        """Stop all nodes. They keep no data for another start, because tests need none."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd = None

    def authority(self, first: int = 0) -> str:
        """Return user, password, hosts and ports, as a transport URL has them; ``first`` begins the hosts."""
        nodes = [*self.nodes[first:], *self.nodes[:first]]
        return ",".join(f"{USER}:{PASSWORD}@{HOST}:{node.port}" for node in nodes)

    def transport_url(self, vhost: str) -> str:
        """Return the address of all nodes, as OpenStack's services write it."""
        return f"rabbit://{self.authority()}/{quote(vhost, safe='')}"

    def leader(self, vhost: str, queue: str) -> Node | None:
        """Return the node that leads a quorum queue; None while no node does."""
        name = self._living().ctl(
            "eval",
            f'{{ok, Q}} = rabbit_amqqueue:lookup({{resource, <<"{vhost}">>, queue, <<"{queue}">>}}),'
            " {ok, _, {_, Leader}} = ra:members(amqqueue:get_pid(Q)), Leader.",
        )
        return next((node for node in self.nodes if node.node in name and node.running), None)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Let every node raise the memory alarm, which stops publishers."""
        for node in self.nodes:
            node.ctl("set_vm_memory_high_watermark", "0.0001")
        try:
            yield
        finally:
            for node in self.nodes:
                node.ctl("set_vm_memory_high_watermark", "absolute", "512MB")

    def _living(self) -> Node:
        return next(node for node in self.nodes if node.running)

    def _whole(self) -> bool:
        counted = self.nodes[0].ctl("eval", "length(rabbit_nodes:all_running()).")
        return counted.strip() == str(len(self.nodes))
