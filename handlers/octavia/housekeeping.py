"""The interface of Octavia's Housekeeping Manager specification (2014), and its errors.

Three handlers replace the specification's loop: ``spare_pool``, ``failed_amphora`` and ``deactivated_amphorae``.

Each error of an API becomes one exception of this module. An error of the database is :class:`~handlers.base.Unavailable`. A
method that is switched off, or that the driver lacks, raises NotImplementedError.

Source: Octavia's ``specs/version0.5/housekeeping-manager-interface.rst``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from handlers.base import Unavailable

LOG = logging.getLogger(__name__)


class AmphoraDriverError(Exception):
    """Root of this module's errors."""


class NotFoundError(AmphoraDriverError):
    """The object does not exist (404)."""


class UnavailableException(AmphoraDriverError, Unavailable):
    """An API gave no useful answer, which proves nothing about the object.

    The API did not answer, failed (5xx), was too busy (413, 429), or refused because of the object's state (409, 412).

    :param dependency: the service that did not answer (such as ``compute`` or ``octavia-worker``), or the object whose state
        refused the call (``server:<id>``)
    """


class UnauthorizedException(AmphoraDriverError, Unavailable):
    """The credentials are wrong or lack a role, or a quota is used up (401, 403)."""


class DeleteFailed(AmphoraDriverError):
    """stackmend or an API refused a removal for good, or the object still exists although the API accepted the removal."""


class HousekeepingManager(ABC):
    """The interface of the specification. Every method can also raise :class:`AmphoraDriverError` and HandlerError."""

    @abstractmethod
    def get_spare_amphora_size(self) -> int:
        """Return the wanted number of spare amphorae."""

    @abstractmethod
    def get_ready_spare_amphora_count(self) -> int:
        """Return the number of spare amphorae that are ready for use. Surplus spares do not count."""

    @abstractmethod
    def create_amphora(self, num_to_create: int = 1) -> None:
        """Begin to build at most ``num_to_create`` spares, within the limit of simultaneous builds. Do not wait."""

    @abstractmethod
    def remove_amphora(self, amphora_ids: Sequence[str]) -> None:
        """Remove deactivated amphorae completely, and verify the removal.

        After an error, continue with the next amphora. At the end, raise the first error.

        :raises NotFoundError: an amphora does not exist
        :raises DeleteFailed: an amphora cannot be removed, or still exists
        """


def log_pool_size(manager: HousekeepingManager) -> tuple[int, int]:
    """Log and return the number of ready spares, without surplus, and the number of wanted spares.

    :return: two zeros if the manager does not support spares
    """
    try:
        wanted = manager.get_spare_amphora_size()
        ready = manager.get_ready_spare_amphora_count()
    except NotImplementedError:
        return 0, 0
    LOG.debug("spare amphora pool: %d of %d ready", ready, wanted)
    return ready, wanted


def top_up(manager: HousekeepingManager) -> tuple[int, int]:
    """Begin to build the missing spares.

    :return: the numbers of ready and of wanted spares before the builds
    """
    ready, wanted = log_pool_size(manager)
    if ready < wanted:
        manager.create_amphora(wanted - ready)
    return ready, wanted
