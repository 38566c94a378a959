"""What every driver can do: the calls to Nova, Neutron, Glance and Octavia that the handlers are made of.

Each method is one call, or one listing, and decides nothing: what is failed, preserved or spare is decided by the
handlers. Reading methods return None for what does not exist. Writing methods raise
:class:`~handlers.octavia.housekeeping.NotFoundError` for it, except removals, for which "it is not there" is success. All
raise the exceptions of :mod:`handlers.octavia.housekeeping`, and nothing else. None waits for a result: Nova, Neutron and
Octavia work on, and the next look tells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from handlers.octavia.cloud_objects import Group, Image, Port, Server
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.settings import HousekeepingSettings


class Driver(ABC):
    """One cloud's appliances. Safe to share between threads.

    :param database: Octavia's
    """

    def __init__(self, settings: HousekeepingSettings, database: OctaviaDatabase) -> None:
        self.settings = settings
        self.database = database

    # whose they are

    @abstractmethod
    def project(self) -> str:
        """Return the id of the project in which Octavia boots amphorae."""

    # servers

    @abstractmethod
    def server(self, server: str) -> Server | None:
        """Return one server, of whatever project."""

    @abstractmethod
    def servers(self) -> Sequence[Server]:
        """Return every server of Octavia's project; when a cell of Nova does not answer, none.

        Nova may begin or move one while it lists them: what is not among them is gone only if :meth:`server` says so too.

        :raises UnavailableException: also when a cell does not answer: what is in it is unknown, not absent
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
        """Stop a server; one in ERROR too, which becomes SHUTOFF by it."""

    @abstractmethod
    def shelve_server(self, server: str) -> None:
        """Shelve a server: its disk becomes an image, its host and its place in a server group come free.

        They are free when ``host`` is None; the status says SHELVED_OFFLOADED a moment earlier.
        """

    @abstractmethod
    def delete_server(self, server: str) -> None:
        """Delete a server; locked ones too."""

    @abstractmethod
    def describe_server(self, server: str, metadata: Mapping[str, str], name: str = "") -> None:
        """Add metadata, and a new name if one is given.

        Nova takes a name always; metadata only for a server that is ACTIVE, PAUSED, SUSPENDED or SHUTOFF, whatever it is
        doing with it (``nova/compute/api.py``), so never for one in ERROR or shelved: :class:`UnavailableException`.
        """

    @abstractmethod
    def tag_server(self, server: str, tag: str) -> None:
        """Add a tag; refused in the same states as metadata."""

    @abstractmethod
    def untag_server(self, server: str, tag: str) -> bool:
        """Take a tag away; True for the one caller whose call it was that did. Refused as :meth:`tag_server`."""

    @abstractmethod
    def lock_server(self, server: str, reason: str) -> None:
        """Lock a server, so that nobody but an administrator changes it."""

    @abstractmethod
    def unlock_server(self, server: str) -> None:
        """Unlock a server."""

    @abstractmethod
    def console(self, server: str, lines: int) -> str:
        """Return the end of a server's console log; empty where its host has none."""

    # ports

    @abstractmethod
    def port(self, port: str) -> Port | None:
        """Return one port."""

    @abstractmethod
    def ports_of(self, device: str) -> Sequence[Port]:
        """Return the ports of a device.

        :param device: never empty: Neutron would list every port there is
        """

    @abstractmethod
    def ports(self) -> Sequence[Port]:
        """Return Octavia's ports, of whatever project: those whose name begins with ``octavia-lb-``."""

    @abstractmethod
    def ports_at(self, network: str, address: str) -> Sequence[Port]:
        """Return the ports of a network that have an address as their own, of any project."""

    @abstractmethod
    def detach_port(self, server: str, port: str) -> None:
        """Ask Nova to detach a port; whether it did, :meth:`ports_of` tells. Gone already is success."""

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
        """Return every image that :meth:`create_image` made."""

    @abstractmethod
    def create_image(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        """Begin to make an image of a server's disk; return its id."""

    @abstractmethod
    def seal_image(self, image: str) -> None:
        """Make an image private and protected."""

    @abstractmethod
    def unseal_image(self, image: str) -> None:
        """Let an image be deleted again."""

    @abstractmethod
    def delete_image(self, image: str) -> None:
        """Delete an image that is not protected."""

    # what load balancers leave behind

    @abstractmethod
    def server_groups(self) -> Sequence[Group]:
        """Return the server groups of Octavia's project."""

    @abstractmethod
    def delete_server_group(self, group: str) -> None:
        """Delete a server group."""

    @abstractmethod
    def security_groups(self) -> Sequence[Group]:
        """Return the security groups of Octavia's project; of whose members nothing is said."""

    @abstractmethod
    def delete_security_group(self, group: str) -> None:
        """Delete a security group; Neutron refuses one that a port uses."""

    @abstractmethod
    def security_group(self, name: str) -> Group | None:
        """Return the security group of Octavia's project that has this name, with its tags."""

    @abstractmethod
    def tag_security_group(self, group: str, tag: str) -> None:
        """Add a tag of at most 60 characters to a security group."""

    # Octavia

    @abstractmethod
    def require_failover(self, amphora: str) -> None:
        """Ask Octavia's API for an amphora, which needs the same role as its failover (``octavia/policies/amphora.py``).

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
        """Ask Octavia to delete an amphora; whether it does, only its row tells."""
