"""The interface of every driver: the calls to Nova, Neutron, Glance and Octavia.

Each method is one call or one listing, and does not wait for the result. For an object that does not exist, a reading method
returns None, a removal succeeds, and another writing method raises :class:`~handlers.octavia.housekeeping.NotFoundError`. All
raise only the exceptions of :mod:`handlers.octavia.housekeeping`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Self

from handlers.base import Resources
from handlers.octavia.cloud_objects import Group, Image, Port, Server
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.settings import HousekeepingSettings


class Driver(ABC):
    """The amphorae of one cloud; safe to share between threads."""

    def __init__(self, settings: HousekeepingSettings, database: OctaviaDatabase) -> None:
        self.settings = settings
        self.database = database

    @classmethod
    @abstractmethod
    def made(cls, resources: Resources, settings: HousekeepingSettings, database: OctaviaDatabase) -> Self:
        """Make the driver out of the configuration.

        :raises ConfigError: when an option is missing or wrong
        """

    # the project

    @abstractmethod
    def project(self) -> str:
        """Return the id of the project in which Octavia boots amphorae."""

    # servers

    @abstractmethod
    def server(self, server: str) -> Server | None:
        """Return one server of any project."""

    @abstractmethod
    def servers(self) -> Sequence[Server]:
        """Return every server of Octavia's project; a server is gone only if :meth:`server` agrees.

        :raises UnavailableException: also when a cell does not answer: its servers are unknown, not absent
        """

    @abstractmethod
    def create_server(
        self, name: str, zone: str | None, tag: str, metadata: Mapping[str, str], flavor: str = ""
    ) -> str:
        """Boot a server without a network from the amphora image, in Octavia's project; return its id.

        :param flavor: id; empty for that of amphorae
        """

    @abstractmethod
    def stop_server(self, server: str) -> None:
        """Stop a server; one in ERROR becomes SHUTOFF too."""

    @abstractmethod
    def shelve_server(self, server: str) -> None:
        """Shelve a server. Once ``host`` is None, its host and its place in a server group are free."""

    @abstractmethod
    def delete_server(self, server: str) -> None:
        """Delete a server, even a locked one."""

    @abstractmethod
    def describe_server(self, server: str, metadata: Mapping[str, str], name: str = "") -> None:
        """Add metadata, and set a new name if one is given.

        :raises UnavailableException: for metadata of a server that is not ACTIVE, PAUSED, SUSPENDED or SHUTOFF; Nova accepts
            a name in every state (``nova/compute/api.py``)
        """

    @abstractmethod
    def tag_server(self, server: str, tag: str) -> None:
        """Add a tag; Nova refuses it in the same states as metadata."""

    @abstractmethod
    def untag_server(self, server: str, tag: str) -> bool:
        """Remove a tag; return True only for the caller whose request removed it. Nova refuses as in :meth:`tag_server`."""

    @abstractmethod
    def lock_server(self, server: str, reason: str) -> None:
        """Lock a server, so that only an administrator changes it."""

    @abstractmethod
    def unlock_server(self, server: str) -> None:
        """Unlock a server."""

    @abstractmethod
    def console(self, server: str, lines: int) -> str:
        """Return the last lines of a server's console log; empty where its host has none."""

    # ports

    @abstractmethod
    def port(self, port: str) -> Port | None:
        """Return one port."""

    @abstractmethod
    def ports_of(self, device: str) -> Sequence[Port]:
        """Return the ports of a device.

        :param device: never empty: Neutron would list every port
        """

    @abstractmethod
    def ports(self) -> Sequence[Port]:
        """Return the ports of any project whose name begins with ``octavia-lb-``."""

    @abstractmethod
    def ports_at(self, network: str, address: str) -> Sequence[Port]:
        """Return the ports of a network that have an address as their own, of any project."""

    @abstractmethod
    def ports_named(self, names: Collection[str]) -> Sequence[Port]:
        """Return the ports of any project that have one of these names."""

    @abstractmethod
    def detach_port(self, server: str, port: str) -> None:
        """Ask Nova to detach a port; :meth:`ports_of` shows the result. A port that is gone is a success."""

    @abstractmethod
    def disable_port(self, port: Port) -> None:
        """Set a port administratively down, if it still has this revision."""

    @abstractmethod
    def delete_port(self, port: Port) -> None:
        """Delete a port, if it still has this revision."""

    # images

    @abstractmethod
    def image(self, image: str) -> Image | None:
        """Return one image."""

    @abstractmethod
    def images(self) -> Sequence[Image]:
        """Return every image of :meth:`create_image`."""

    @abstractmethod
    def create_image(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        """Begin to create an image of a server's disk; return its id."""

    @abstractmethod
    def seal_image(self, image: str) -> None:
        """Set an image to private and protected."""

    @abstractmethod
    def unseal_image(self, image: str) -> None:
        """Remove the protection of an image."""

    @abstractmethod
    def delete_image(self, image: str) -> None:
        """Delete an image that is not protected."""

    # groups

    @abstractmethod
    def server_groups(self) -> Sequence[Group]:
        """Return the server groups of Octavia's project."""

    @abstractmethod
    def delete_server_group(self, group: str) -> None:
        """Delete a server group."""

    @abstractmethod
    def security_groups(self) -> Sequence[Group]:
        """Return the security groups of Octavia's project, without members."""

    @abstractmethod
    def delete_security_group(self, group: str) -> None:
        """Delete a security group; Neutron refuses one that a port uses."""

    @abstractmethod
    def security_group(self, name: str) -> Group | None:
        """Return the security group of Octavia's project that has this name, with its tags."""

    @abstractmethod
    def tag_security_group(self, group: str, tag: str) -> None:
        """Add a tag of at most 60 characters to a security group."""

    @abstractmethod
    def untag_security_group(self, group: str, tag: str) -> None:
        """Remove a tag of a security group, if it has the tag."""

    # Octavia

    @abstractmethod
    def require_failover(self, amphora: str) -> None:
        """Read an amphora by Octavia's API, which needs the same role as its failover (``octavia/policies/amphora.py``).

        :raises NotFoundError, UnauthorizedException, UnavailableException: when a failover would be refused as well
        """

    @abstractmethod
    def failover_amphora(self, amphora: str) -> None:
        """Ask Octavia to replace an amphora; its load balancer must be ACTIVE."""

    @abstractmethod
    def failover_load_balancer(self, balancer: str) -> None:
        """Ask Octavia to replace all amphorae of a load balancer; it must be ACTIVE or ERROR."""

    @abstractmethod
    def delete_amphora(self, amphora: str) -> None:
        """Ask Octavia to delete an amphora; only its row shows the result."""
