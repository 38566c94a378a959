"""Nova, Neutron and Glance in memory, as far as amphorae need them.

The cloud refuses calls as the real services do. Nova accepts a stop of a server in ERROR, but no detachment and no image. For a
server on a dead host, Nova accepts a stop, shelving, detachment or image, but does not finish it. When Nova detaches a port
that it created, it deletes the port. Every call takes effect at once, unless :class:`Weather` prevents or delays it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4

from handlers.octavia.cloud_objects import SOFT_DELETED, Group, Image, Port, Server
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError, UnauthorizedException, UnavailableException

#: Octavia's project, and the one of the load balancers' owners
OCTAVIA, OWNER = "octavia-project", "owner-project"
MANAGEMENT, MEMBERS, VIPS = "lb-mgmt-net", "member-net", "vip-net"
BOOT_IMAGE, FLAVOR = "amphora-image", "amphora-flavor"

#: states of a server in which Nova detaches its ports and makes images of it (``nova/compute/api.py``)
_WILLING = frozenset({"ACTIVE", "SHUTOFF", "PAUSED"})


def _nothing(_call: str) -> None:
    pass


@dataclass
class Weather:
    """Failures of the cloud in memory, which a test or demonstration can change at any time.

    :param clinging: servers whose ports Nova never detaches, although it accepts the request
    :param slow_images: whether images stay ``saving`` until :meth:`Cloud.finish_images`
    :param slow_builds: whether servers stay in BUILD until :meth:`Cloud.finish_builds`
    :param soft_deletes: whether Nova keeps a deleted server for ``reclaim_instance_interval``, and counts it anew for each
        further deletion
    :param unreachable: services that do not answer: ``compute``, ``network``, ``image``, ``load-balancer``, ``broker``
    """

    dead_hosts: set[str] = field(default_factory=set)
    clinging: set[str] = field(default_factory=set)
    slow_images: bool = False
    slow_builds: bool = False
    soft_deletes: bool = False
    unreachable: set[str] = field(default_factory=set)
    before: Callable[[str], None] = _nothing
    after: Callable[[str], None] = _nothing


class Cloud:
    """The cloud in memory. Thread-safe.

    :param hosts: compute hosts with their availability zones
    :param quota: greatest number of servers in Octavia's project; None: no limit
    """

    def __init__(self, hosts: Mapping[str, str] | None = None, room: int = 1000, quota: int | None = None) -> None:
        self.hosts = dict(hosts or {"compute-1": "nova", "compute-2": "nova", "compute-3": "nova"})
        self.room = room
        self.quota = quota
        self.weather = Weather()
        self.lock = threading.RLock()
        self._servers: dict[str, Server] = {}
        self._ports: dict[str, Port] = {}
        self._images: dict[str, Image] = {}
        self._groups: dict[str, Group] = {}
        self._security_groups: dict[str, Group] = {}
        self._born: dict[str, float] = {}

    # servers

    def server(self, identity: str) -> Server | None:
        with self.lock:
            found = self._servers.get(identity)
            return None if found is None else self._shown(found)

    def servers(self, project: str = OCTAVIA) -> list[Server]:
        with self.lock:
            own = [server for server in self._servers.values() if server.project_id == project]
            return [self._shown(server) for server in own if server.status != SOFT_DELETED]

    def _shown(self, server: Server) -> Server:
        groups = tuple(group.id for group in self._groups.values() if server.id in group.members)
        up = None if server.host is None else server.host not in self.weather.dead_hosts
        return replace(server, host_up=up, groups=groups, age=self._age(server.id))

    def boot(
        self,
        name: str,
        *,
        identity: str = "",
        zone: str | None = None,
        project: str = OCTAVIA,
        tags: frozenset[str] = frozenset(),
        metadata: Mapping[str, str] | None = None,
        group: str | None = None,
        image: str | None = BOOT_IMAGE,
        flavor: str = FLAVOR,
    ) -> Server:
        """Boot a server; if no host has room, the server is in ERROR and on no host.

        :raises UnauthorizedException: the quota of Octavia's project is used up
        """
        with self.lock:
            if project == OCTAVIA and self.headroom() == 0:
                raise UnauthorizedException("compute", "answered 403: Quota exceeded for instances")
            host = self._schedule(zone, group)
            status = "ERROR" if host is None else "BUILD" if self.weather.slow_builds else "ACTIVE"
            server = Server(
                identity or str(uuid4()),
                name,
                project,
                status,
                host=host,
                zone=self.hosts[host] if host else zone,
                flavor=flavor,
                image=image,
                metadata=dict(metadata or {}),
                tags=tags,
            )
            self._servers[server.id] = server
            self._born[server.id] = time.monotonic()
            if group:
                kept = self._groups[group]
                self._groups[group] = replace(kept, members=(*kept.members, server.id))
            return self._shown(server)

    def headroom(self) -> int | None:
        return None if self.quota is None else max(0, self.quota - len(self.servers()))

    def _schedule(self, zone: str | None, group: str | None) -> str | None:
        taken = {self._servers[member].host for member in self._groups[group].members} if group else set()
        load = {host: sum(server.host == host for server in self._servers.values()) for host in self.hosts}
        fit = [
            host
            for host, its_zone in self.hosts.items()
            if zone in (None, its_zone)
            and host not in taken
            and host not in self.weather.dead_hosts
            and load[host] < self.room
        ]
        return min(fit, key=lambda host: (load[host], host)) if fit else None

    def finish_builds(self) -> None:
        with self.lock:
            for server in list(self._servers.values()):
                if server.status == "BUILD":
                    self._servers[server.id] = replace(server, status="ACTIVE")

    def alter_server(self, identity: str, **changes: object) -> None:
        """Change a server at once, without the checks of an API call."""
        with self.lock:
            self._servers[identity] = replace(self.present(identity), **changes)  # type: ignore[arg-type]

    def stop(self, identity: str) -> None:
        with self.lock:
            server = self.present(identity)
            if server.status not in {"ACTIVE", "ERROR"} or server.task_state:
                raise _conflict(server)
            if self._is_dead(server):
                self._servers[identity] = replace(server, task_state="powering-off")
            else:
                self._servers[identity] = replace(server, status="SHUTOFF")

    def shelve(self, identity: str) -> None:
        with self.lock:
            server = self.present(identity)
            if server.status not in _WILLING or server.task_state:
                raise _conflict(server)
            if self._is_dead(server):
                self._servers[identity] = replace(server, task_state="shelving")
                return
            self._servers[identity] = replace(server, status="SHELVED_OFFLOADED", host=None)
            self._keep_image(f"{server.name}-shelved", {"instance_uuid": server.id}, "active")

    def delete_server(self, identity: str) -> None:
        with self.lock:
            server = self._servers.get(identity)
            if server is None:
                return
            if self.weather.soft_deletes:
                self._servers[identity] = replace(server, status=SOFT_DELETED)
                return
            del self._servers[identity]
            for port in [port for port in self._ports.values() if port.device_id == identity]:
                self._unbind(port)
            for group in list(self._groups.values()):
                members = tuple(member for member in group.members if member != identity)
                self._groups[group.id] = replace(group, members=members)
            for image in list(self._images.values()):
                if image.name == f"{server.name}-shelved":
                    del self._images[image.id]

    def present(self, identity: str) -> Server:
        """:raises NotFoundError: the server does not exist"""
        server = self._servers.get(identity)
        if server is None:
            raise NotFoundError(f"there is no server {identity}")
        return server

    def _is_dead(self, server: Server) -> bool:
        return server.host in self.weather.dead_hosts

    # ports

    def port(self, identity: str) -> Port | None:
        with self.lock:
            found = self._ports.get(identity)
            return None if found is None else replace(found, age=self._age(identity))

    def ports(self) -> list[Port]:
        with self.lock:
            return [replace(port, age=self._age(port.id)) for port in self._ports.values()]

    def plug(
        self,
        server: str,
        network: str,
        name: str = "",
        pairs: tuple[str, ...] = (),
        identity: str = "",
        addresses: tuple[str, ...] = (),
    ) -> Port:
        """Create a port on a server. A port without a name is Nova's own, so its detachment deletes it."""
        with self.lock:
            made = identity or str(uuid4())
            mac = "fa:16:3e:" + ":".join(made[index : index + 2] for index in (0, 2, 4))
            port = Port(made, name, OCTAVIA, network, server, "compute:nova", mac, True, 1, pairs, addresses=addresses)
            self._ports[made] = port
            self._born[made] = time.monotonic()
            return port

    def detach(self, server: str, port: str) -> None:
        with self.lock:
            shown = self._servers.get(server)
            if shown is None:
                return
            if shown.status not in _WILLING or shown.task_state:
                raise _conflict(shown)
            found = self._ports.get(port)
            if found is None or found.device_id != server or server in self.weather.clinging or self._is_dead(shown):
                return
            self._unbind(found)

    def _unbind(self, port: Port) -> None:
        if port.name:
            self._ports[port.id] = replace(port, device_id="", device_owner="", revision=port.revision + 1)
        else:
            del self._ports[port.id]

    def disable_port(self, port: Port) -> None:
        with self.lock:
            found = self._same_port(port)
            if found is None:
                raise NotFoundError(f"there is no port {port.id}")
            self._ports[port.id] = replace(found, admin_up=False, revision=found.revision + 1)

    def delete_port(self, port: Port) -> None:
        with self.lock:
            if self._same_port(port) is not None:
                del self._ports[port.id]

    def remove_port(self, identity: str) -> None:
        """Delete a port of any revision, as Octavia does."""
        with self.lock:
            self._ports.pop(identity, None)

    def _same_port(self, port: Port) -> Port | None:
        found = self._ports.get(port.id)
        if found is not None and found.revision != port.revision:
            raise UnavailableException(f"port:{port.id}", f"it has revision {found.revision}, not {port.revision}")
        return found

    # images

    def image(self, identity: str) -> Image | None:
        with self.lock:
            found = self._images.get(identity)
            return None if found is None else replace(found, age=self._age(identity))

    def images(self) -> list[Image]:
        with self.lock:
            return [replace(image, age=self._age(image.id)) for image in self._images.values()]

    def snapshot(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        with self.lock:
            shown = self.present(server)
            if shown.status not in _WILLING or shown.task_state:
                raise _conflict(shown)
            stays = self.weather.slow_images or self._is_dead(shown)
            if self._is_dead(shown):
                self._servers[server] = replace(shown, task_state="image_snapshot_pending")
            return self._keep_image(name, {**properties, "instance_uuid": server}, "saving" if stays else "active").id

    def finish_images(self) -> None:
        with self.lock:
            for image in list(self._images.values()):
                self._images[image.id] = replace(image, status="active")

    def alter_image(self, identity: str, **changes: object) -> None:
        with self.lock:
            found = self._images.get(identity)
            if found is None:
                raise NotFoundError(f"there is no image {identity}")
            self._images[identity] = replace(found, **changes)  # type: ignore[arg-type]

    def delete_image(self, identity: str) -> None:
        with self.lock:
            found = self._images.get(identity)
            if found is not None and found.protected:
                raise DeleteFailed(f"image:{identity}: it is protected")
            self._images.pop(identity, None)

    def _keep_image(self, name: str, properties: Mapping[str, str], status: str) -> Image:
        image = Image(str(uuid4()), name, status, OCTAVIA, False, "shared", properties=dict(properties))
        self._images[image.id] = image
        self._born[image.id] = time.monotonic()
        return image

    # groups

    def server_groups(self) -> list[Group]:
        with self.lock:
            return list(self._groups.values())

    def add_server_group(self, name: str, identity: str = "") -> Group:
        with self.lock:
            group = Group(identity or str(uuid4()), name, OCTAVIA)
            return self._groups.setdefault(group.id, group)

    def delete_server_group(self, identity: str) -> None:
        with self.lock:
            self._groups.pop(identity, None)

    def security_groups(self) -> list[Group]:
        with self.lock:
            return [replace(group, age=self._age(group.id)) for group in self._security_groups.values()]

    def add_security_group(self, name: str) -> Group:
        with self.lock:
            group = Group(str(uuid4()), name, OCTAVIA)
            self._born[group.id] = time.monotonic()
            return self._security_groups.setdefault(group.id, group)

    def tag_security_group(self, identity: str, tag: str) -> None:
        with self.lock:
            group = self._security_groups.get(identity)
            if group is None:
                raise NotFoundError(f"there is no security group {identity}")
            self._security_groups[identity] = replace(group, tags=group.tags | {tag})

    def untag_security_group(self, identity: str, tag: str) -> None:
        with self.lock:
            group = self._security_groups.get(identity)
            if group is not None:
                self._security_groups[identity] = replace(group, tags=group.tags - {tag})

    def delete_security_group(self, identity: str) -> None:
        """:raises UnavailableException: a port uses the group"""
        with self.lock:
            if any(identity in port.security_groups for port in self._ports.values()):
                raise UnavailableException(f"security-group:{identity}", "it is in use")
            self._security_groups.pop(identity, None)

    def add_port(self, port: Port) -> None:
        with self.lock:
            self._ports[port.id] = port
            self._born[port.id] = time.monotonic()

    def grow_older(self, seconds: float) -> None:
        with self.lock:
            self._born = {identity: born - seconds for identity, born in self._born.items()}

    def _age(self, identity: str) -> float:
        return time.monotonic() - self._born[identity]


def _conflict(server: Server) -> UnavailableException:
    doing = f", {server.task_state}" if server.task_state else ""
    return UnavailableException(f"server:{server.id}", f"it is {server.status}{doing}")
