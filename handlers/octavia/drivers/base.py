"""The interface of all drivers: calls to Nova, Neutron, Glance and Octavia.

No method waits for the effect of a write. When an object does not exist, a method that would return the object returns None, a
removal succeeds, and any other write raises :class:`~handlers.octavia.housekeeping.NotFoundError`. A failed call raises an
exception of :mod:`handlers.octavia.housekeeping`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Self

from handlers.base import Resources
from handlers.octavia.cloud_objects import Group, Image, Port, Server
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.settings import HousekeepingSettings


class Driver(ABC):
    """The calls to one cloud. Thread-safe."""

    def __init__(self, settings: HousekeepingSettings, database: OctaviaDatabase) -> None:
        self.settings = settings
        self.database = database

    @classmethod
    @abstractmethod
    def made(cls, resources: Resources, settings: HousekeepingSettings, database: OctaviaDatabase) -> Self:
        """:raises ConfigError: an option is missing or wrong"""

    def requests(self, name: str, arguments: Sequence[object]) -> list[str]:
        """Return the requests that a writing method would send, as lines of a plan.

        By default, return one line: the method's name and arguments.
        """
        return [" ".join([name, *(_text(one) for one in arguments if one not in ("", None))])]

    # the project

    @abstractmethod
    def project(self) -> str:
        """Return the id of the project in which Octavia boots amphorae."""

    # servers

    @abstractmethod
    def server(self, server: str) -> Server | None:
        """Return a server of any project. Return None for a soft-deleted server, unless Nova restores it now."""

    @abstractmethod
    def servers(self) -> Sequence[Server]:
        """Return the servers of Octavia's project. Only :meth:`server` proves that a server does not exist.

        :raises UnavailableException: Nova does not answer, or a cell that can have servers of Octavia does not
        """

    @abstractmethod
    def create_server(
        self, name: str, zone: str | None, tag: str, metadata: Mapping[str, str], flavor: str = ""
    ) -> str:
        """Boot a server without a network from the amphora image, in Octavia's project; return its id.

        :param flavor: a flavor's id; empty for the flavor of amphorae
        """

    def headroom(self, flavor: str = "") -> int | None:
        """Return how many more servers of a flavor the quotas of Octavia's project allow; None without a limit.

        :param flavor: the flavor's id; empty for the flavor of amphorae
        """
        return None

    @abstractmethod
    def stop_server(self, server: str) -> None:
        """Ask Nova to stop a server, even one in ERROR."""

    @abstractmethod
    def shelve_server(self, server: str) -> None:
        """Shelve a server. Once its ``host`` is None, its room on the host and its place in a server group are free."""

    @abstractmethod
    def delete_server(self, server: str) -> None:
        """Delete a server, even a locked one."""

    @abstractmethod
    def describe_server(self, server: str, metadata: Mapping[str, str], name: str = "") -> None:
        """Add metadata to a server. Set a new name unless ``name`` is empty.

        Nova accepts metadata if the server is ACTIVE, PAUSED, SUSPENDED or SHUTOFF, and a name in every state
        (``nova/compute/api.py``).

        :raises UnavailableException: Nova refuses because of the server's state, or does not answer
        """

    @abstractmethod
    def tag_server(self, server: str, tag: str) -> None:
        """Add a tag to a server. Nova accepts tags and metadata in the same states (:meth:`describe_server`)."""

    @abstractmethod
    def untag_server(self, server: str, tag: str) -> bool:
        """Remove a tag from a server. Nova accepts this in the same states as :meth:`tag_server`.

        :return: whether this call removed the tag
        """

    @abstractmethod
    def lock_server(self, server: str, reason: str) -> None:
        """Lock a server, so that only an administrator can change it."""

    @abstractmethod
    def unlock_server(self, server: str) -> None:
        """Unlock a server."""

    @abstractmethod
    def console(self, server: str, lines: int) -> str:
        """Return the last lines of a server's console log; empty without a log.

        :raises NotFoundError: the server does not exist
        """

    # ports

    @abstractmethod
    def port(self, port: str) -> Port | None:
        """Return a port of any project."""

    @abstractmethod
    def ports_of(self, device: str) -> Sequence[Port]:
        """Return the ports that a device uses.

        :param device: a server's id; never empty, because Neutron would list every port
        """

    @abstractmethod
    def ports(self) -> Sequence[Port]:
        """Return Octavia's ports in all projects; their names begin with ``octavia-lb-``."""

    @abstractmethod
    def ports_at(self, network: str, address: str) -> Sequence[Port]:
        """Return the ports, of any project, that have this fixed address in this network."""

    @abstractmethod
    def ports_named(self, names: Collection[str]) -> Sequence[Port]:
        """Return all ports, of any project, that have one of these names."""

    @abstractmethod
    def detach_port(self, server: str, port: str) -> None:
        """Ask Nova to detach a port, and succeed if the port is already gone."""

    @abstractmethod
    def disable_port(self, port: Port) -> None:
        """Set a port administratively down, if Neutron's port still has the revision of ``port``."""

    @abstractmethod
    def delete_port(self, port: Port) -> None:
        """Delete a port, if Neutron's port still has the revision of ``port``."""

    # images

    @abstractmethod
    def image(self, image: str) -> Image | None:
        """Return an image."""

    @abstractmethod
    def images(self) -> Sequence[Image]:
        """Return every image that :meth:`create_image` began to create, except images that :meth:`release_image` released.

        Return no image of a project in which stackmend creates none: anybody can copy the properties.
        """

    @abstractmethod
    def create_image(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        """Begin to create an image of a server's disk; return the image's id."""

    @abstractmethod
    def seal_image(self, image: str) -> None:
        """Set an image to private and protected."""

    @abstractmethod
    def release_image(self, image: str) -> None:
        """Remove an image's protection, and set its property ``stackmend_state`` to ``released``, in one request."""

    @abstractmethod
    def unseal_image(self, image: str) -> None:
        """Remove the protection of an image."""

    @abstractmethod
    def delete_image(self, image: str) -> None:
        """Delete an image; Glance refuses to delete a protected one."""

    # groups

    @abstractmethod
    def server_groups(self) -> Sequence[Group]:
        """Return the server groups of Octavia's project."""

    @abstractmethod
    def delete_server_group(self, group: str) -> None:
        """Delete a server group."""

    @abstractmethod
    def security_groups(self) -> Sequence[Group]:
        """Return all security groups of Octavia's project. The ``members`` of each group are empty."""

    @abstractmethod
    def delete_security_group(self, group: str) -> None:
        """Delete a security group; Neutron refuses while a port uses the group."""

    @abstractmethod
    def security_group(self, name: str) -> Group | None:
        """Return the security group with this name, with its tags; None unless Octavia's project has exactly one such group."""

    @abstractmethod
    def tag_security_group(self, group: str, tag: str) -> None:
        """Add a tag of at most 60 characters to a security group."""

    @abstractmethod
    def untag_security_group(self, group: str, tag: str) -> None:
        """Remove a tag from a security group; succeed when the tag is missing."""

    # Octavia

    @abstractmethod
    def require_failover(self, amphora: str) -> None:
        """Verify that a worker takes requests, and that Octavia's API shows the amphora. A failover needs both.

        To show the amphora, the API requires the role that a failover needs (``octavia/policies/amphora.py``).

        :raises NotFoundError: Octavia shows no such amphora
        :raises UnauthorizedException: the credentials lack the role
        :raises UnavailableException: the API or the broker does not answer, or no worker takes requests
        """

    @abstractmethod
    def failover_amphora(self, amphora: str) -> None:
        """Ask Octavia to replace an amphora; the load balancer must be ACTIVE."""

    @abstractmethod
    def failover_load_balancer(self, balancer: str) -> None:
        """Ask Octavia to replace all amphorae of a load balancer that is ACTIVE or ERROR."""

    @abstractmethod
    def delete_amphora(self, amphora: str) -> None:
        """Ask Octavia to delete an amphora; only the amphora's row shows the result."""


def _text(argument: object) -> str:
    if isinstance(argument, Mapping):
        return json.dumps(argument, sort_keys=True)
    return str(getattr(argument, "id", argument))
