"""The interface that Octavia's specification of 2014 describes: its four methods.

The handlers ``spare_pool``, ``failed_amphora`` and ``deactivated_amphorae`` run its loop, object by object.

Every error of an API or of the database becomes exactly one of the exceptions below, or NotImplementedError when the method is
switched off or the driver lacks it. :mod:`handlers.octavia.drivers.openstack.api` maps HTTP answers to them.

Source: Octavia's ``specs/version0.5/housekeeping-manager-interface.rst``; it does not map HTTP answers.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from handlers.base import Unavailable

LOG = logging.getLogger(__name__)


class AmphoraDriverError(Exception):
    """Root of the errors that a driver raises on purpose."""


class NotFoundError(AmphoraDriverError):
    """The object does not exist (404)."""


class UnavailableException(AmphoraDriverError, Unavailable):
    """No answer, 5xx, a state that refuses the call (409), or a silent database; this proves nothing.

    :param dependency: the service that did not answer: ``compute``, ``network``, ``image``, ``load-balancer``; or the one
        object whose state refuses the call: ``server:<id>``
    """


class UnauthorizedException(AmphoraDriverError, Unavailable):
    """The credentials are wrong or lack a role (401, 403); an operator has to act."""


class DeleteFailed(AmphoraDriverError):
    """A removal was refused for good, or was accepted and did not happen."""


class HousekeepingManager(ABC):
    """The interface of the specification. Beside the errors below, its methods raise :class:`AmphoraDriverError`."""

    @abstractmethod
    def get_spare_amphora_size(self) -> int:
        """Return the wanted number of spare amphorae.

        :raises NotImplementedError: when this manager has no spares
        """

    @abstractmethod
    def get_ready_spare_amphora_count(self) -> int:
        """Return the number of spare amphorae that are ready for use.

        :raises NotImplementedError: when this manager has no spares
        """

    @abstractmethod
    def create_amphora(self, num_to_create: int = 1) -> None:
        """Begin to build spare amphorae, at most as many as may build at the same time; do not wait for them.

        :raises NotImplementedError: when this manager has no spares
        """

    @abstractmethod
    def remove_amphora(self, amphora_ids: Sequence[str]) -> None:
        """Remove deactivated amphorae completely, and verify that they are gone; an error does not stop the others.

        :raises NotFoundError: when an amphora does not exist
        :raises DeleteFailed: when an amphora cannot be removed, or still exists
        """


def log_pool_size(manager: HousekeepingManager) -> tuple[int, int]:
    """Log and return the number of ready spares and of wanted ones; zeros when the manager has no spares.

    :raises AmphoraDriverError: a call failed
    """
    try:
        wanted = manager.get_spare_amphora_size()
        ready = manager.get_ready_spare_amphora_count()
    except NotImplementedError:
        return 0, 0
    LOG.info("spare amphora pool: %d of %d ready", ready, wanted)
    return ready, wanted


def top_up(manager: HousekeepingManager) -> tuple[int, int]:
    """Log the size of the spare pool, begin to build missing spares, and return what :func:`log_pool_size` returns.

    :raises AmphoraDriverError: a call failed
    """
    ready, wanted = log_pool_size(manager)
    if ready < wanted:
        manager.create_amphora(wanted - ready)
    return ready, wanted
