from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from oslo_config import cfg

from handlers.base.drift import Healed, Json
from handlers.base.errors import Refused
from handlers.base.resources import Resources


class Plugin(ABC):
    """A class that an entry point names; stackmend makes an object of the class from the configuration."""

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Return, by group, the options of the plugin and of the shared objects that the plugin uses."""
        return {}

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Return whether the plugin's service, such as Nova or Octavia, is configured.

        If not, stackmend omits the plugin. But if a command names the plugin, or no service is configured, an error names the
        missing option.
        """
        return True

    @classmethod
    @abstractmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises cfg.Error: an option is missing or wrong"""


class Inventory(Plugin):
    """The objects of one kind that handlers keep in the cloud for an operator, such as preserved amphorae."""

    #: its name on the command line: ``amphora preserved``
    name: ClassVar[str]
    #: one line for help texts and the page
    title: ClassVar[str]
    #: the names of the values of an item that a table shows; the first is the id
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def items(self) -> Sequence[Json]:
        """Return all items. Each item has a value for every name in :attr:`columns`.

        :raises Unavailable: a database or an API does not answer
        """

    @abstractmethod
    def show(self, identity: str) -> Json:
        """Return all known facts about one item, by name.

        :raises LookupError: there is no such item
        """

    def release(self, identity: str) -> Healed:
        """Give an item to the operator: it stays in the cloud, but stackmend no longer counts or changes it.

        :raises LookupError: there is no such item
        :raises Unavailable, Refused: as in :meth:`Handler.heal`
        """
        raise Refused(f"{self.title}: these items cannot be released")

    def delete(self, identity: str) -> Healed:
        """:raises LookupError: there is no such item
        :raises Unavailable, Refused: as in :meth:`Handler.heal`
        """
        raise Refused(f"{self.title}: these items cannot be deleted")
