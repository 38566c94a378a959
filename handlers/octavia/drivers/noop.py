"""The driver of a cloud in memory with a simulated Octavia, for trials and tests.

The driver creates and writes Octavia's tables. So :meth:`NoopDriver.made` accepts only an SQLite database, which no real
Octavia uses.

The cloud exists in one process only. On the same database, a new process creates the servers and ports of all amphora rows that
are not DELETED. Preserved amphorae and spares are lost. The driver writes no heartbeat records, so no amphora becomes silent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from sqlalchemy.engine import make_url

from handlers.access.service_files import ConfigError
from handlers.base import Resources
from handlers.octavia import options
from handlers.octavia.cloud_objects import AMPHORA, RELEASED, STATE, Group, Image, Port, Server
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.simulation.cloud import OCTAVIA, Cloud
from handlers.octavia.simulation.controller import Controller


class NoopDriver(Driver):
    """:param cloud: the cloud's objects; None for an empty cloud with three hosts"""

    def __init__(self, settings: HousekeepingSettings, database: OctaviaDatabase, cloud: Cloud | None = None) -> None:
        super().__init__(settings, database)
        self.cloud = cloud or Cloud()
        self.octavia = Controller(database, self.cloud)
        self.octavia.prepare()

    @classmethod
    def made(cls, resources: Resources, settings: HousekeepingSettings, database: OctaviaDatabase) -> Self:
        """:raises ConfigError: the configured database is not SQLite, so it can belong to a real Octavia"""
        if make_url(options.database_url(resources.conf)).get_backend_name() != "sqlite":
            raise ConfigError(
                "[housekeeping] driver = noop writes Octavia's tables, so it needs an SQLite database "
                "of its own: [octavia] database_connection = sqlite:////var/lib/stackmend/octavia.sqlite"
            )
        return cls(settings, database)

    @contextmanager
    def _calling(self, service: str, name: str) -> Iterator[None]:
        weather = self.cloud.weather
        weather.before(name)
        if service in weather.unreachable:
            raise UnavailableException(service, "no answer")
        yield
        weather.after(name)

    def project(self) -> str:
        return OCTAVIA

    # servers

    def server(self, server: str) -> Server | None:
        with self._calling("compute", "server"):
            found = self.cloud.server(server)
            return None if found is None or found.is_soft_deleted else found

    def servers(self) -> Sequence[Server]:
        with self._calling("compute", "servers"):
            return self.cloud.servers()

    def create_server(
        self, name: str, zone: str | None, tag: str, metadata: Mapping[str, str], flavor: str = ""
    ) -> str:
        with self._calling("compute", "create_server"):
            more = {"flavor": flavor} if flavor else {}
            return self.cloud.boot(name, zone=zone, tags=frozenset({tag}), metadata=metadata, **more).id

    def headroom(self, flavor: str = "") -> int | None:
        with self._calling("compute", "headroom"):
            return self.cloud.headroom()

    def stop_server(self, server: str) -> None:
        with self._calling("compute", "stop_server"):
            self.cloud.stop(server)

    def shelve_server(self, server: str) -> None:
        with self._calling("compute", "shelve_server"):
            self.cloud.shelve(server)

    def delete_server(self, server: str) -> None:
        with self._calling("compute", "delete_server"):
            self.cloud.delete_server(server)

    def describe_server(self, server: str, metadata: Mapping[str, str], name: str = "") -> None:
        with self._calling("compute", "describe_server"), self.cloud.lock:
            known = self._describable(server) if metadata else self.cloud.present(server)
            self.cloud.alter_server(server, metadata={**known.metadata, **metadata}, name=name or known.name)

    def tag_server(self, server: str, tag: str) -> None:
        with self._calling("compute", "tag_server"), self.cloud.lock:
            self.cloud.alter_server(server, tags=self._describable(server).tags | {tag})

    def untag_server(self, server: str, tag: str) -> bool:
        with self._calling("compute", "untag_server"), self.cloud.lock:
            if self.cloud.server(server) is None:
                return False
            tags = self._describable(server).tags
            self.cloud.alter_server(server, tags=tags - {tag})
            return tag in tags

    def _describable(self, server: str) -> Server:
        known = self.cloud.present(server)
        if known.status not in {"ACTIVE", "PAUSED", "SUSPENDED", "SHUTOFF"}:
            raise UnavailableException(f"server:{server}", f"it is {known.status}")
        return known

    def lock_server(self, server: str, reason: str) -> None:
        with self._calling("compute", "lock_server"):
            self.cloud.alter_server(server, locked=True)

    def unlock_server(self, server: str) -> None:
        with self._calling("compute", "unlock_server"):
            self.cloud.alter_server(server, locked=False)

    def console(self, server: str, lines: int) -> str:
        with self._calling("compute", "console"):
            shown = self.cloud.present(server)
            return "" if shown.host is None else f"{shown.name} login:"

    # ports

    def port(self, port: str) -> Port | None:
        with self._calling("network", "port"):
            return self.cloud.port(port)

    def ports_of(self, device: str) -> Sequence[Port]:
        with self._calling("network", "ports_of"):
            return [port for port in self.cloud.ports() if port.device_id == device]

    def ports(self) -> Sequence[Port]:
        with self._calling("network", "ports"):
            return [port for port in self.cloud.ports() if port.name.startswith("octavia-lb-")]

    def ports_at(self, network: str, address: str) -> Sequence[Port]:
        with self._calling("network", "ports_at"):
            return [port for port in self.cloud.ports() if port.network_id == network and address in port.addresses]

    def ports_named(self, names: Collection[str]) -> Sequence[Port]:
        with self._calling("network", "ports_named"):
            return [port for port in self.cloud.ports() if port.name in names]

    def detach_port(self, server: str, port: str) -> None:
        with self._calling("compute", "detach_port"):
            self.cloud.detach(server, port)

    def disable_port(self, port: Port) -> None:
        with self._calling("network", "disable_port"):
            self.cloud.disable_port(port)

    def delete_port(self, port: Port) -> None:
        with self._calling("network", "delete_port"):
            self.cloud.delete_port(port)

    # images

    def image(self, image: str) -> Image | None:
        with self._calling("image", "image"):
            return self.cloud.image(image)

    def images(self) -> Sequence[Image]:
        with self._calling("image", "images"):
            ours = (image for image in self.cloud.images() if AMPHORA in image.properties and image.owner == OCTAVIA)
            return [image for image in ours if image.properties.get(STATE) != RELEASED]

    def create_image(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        with self._calling("compute", "create_image"):
            return self.cloud.snapshot(server, name, properties)

    def seal_image(self, image: str) -> None:
        with self._calling("image", "seal_image"):
            self.cloud.alter_image(image, protected=True, visibility="private")

    def release_image(self, image: str) -> None:
        with self._calling("image", "release_image"):
            found = self.cloud.image(image)
            properties = {**(found.properties if found is not None else {}), STATE: RELEASED}
            self.cloud.alter_image(image, protected=False, properties=properties)

    def unseal_image(self, image: str) -> None:
        with self._calling("image", "unseal_image"):
            self.cloud.alter_image(image, protected=False)

    def delete_image(self, image: str) -> None:
        with self._calling("image", "delete_image"):
            self.cloud.delete_image(image)

    # groups

    def server_groups(self) -> Sequence[Group]:
        with self._calling("compute", "server_groups"):
            return self.cloud.server_groups()

    def delete_server_group(self, group: str) -> None:
        with self._calling("compute", "delete_server_group"):
            self.cloud.delete_server_group(group)

    def security_groups(self) -> Sequence[Group]:
        with self._calling("network", "security_groups"):
            return [replace(group, members=()) for group in self.cloud.security_groups()]

    def delete_security_group(self, group: str) -> None:
        with self._calling("network", "delete_security_group"):
            self.cloud.delete_security_group(group)

    def security_group(self, name: str) -> Group | None:
        with self._calling("network", "security_group"):
            found = [group for group in self.cloud.security_groups() if group.name == name]
            return found[0] if len(found) == 1 else None

    def tag_security_group(self, group: str, tag: str) -> None:
        with self._calling("network", "tag_security_group"):
            self.cloud.tag_security_group(group, tag)

    def untag_security_group(self, group: str, tag: str) -> None:
        with self._calling("network", "untag_security_group"):
            self.cloud.untag_security_group(group, tag)

    # Octavia

    def require_failover(self, amphora: str) -> None:
        with self._asking_octavia("require_failover"):
            self.octavia.require_amphora(amphora)

    def failover_amphora(self, amphora: str) -> None:
        with self._asking_octavia("failover_amphora"):
            self.octavia.failover_amphora(amphora)

    def failover_load_balancer(self, balancer: str) -> None:
        with self._asking_octavia("failover_load_balancer"):
            self.octavia.failover_load_balancer(balancer)

    def delete_amphora(self, amphora: str) -> None:
        with self._asking_octavia("delete_amphora"):
            self.octavia.delete_amphora(amphora)

    @contextmanager
    def _asking_octavia(self, name: str) -> Iterator[None]:
        if "broker" in self.cloud.weather.unreachable:
            raise UnavailableException("broker:octavia", "no answer")
        with self._calling("load-balancer", name):
            yield
