"""The Housekeeping Manager: the interface that Octavia's specification of 2014 asked for and that was never built.

Four methods, abstract, so that what keeps the amphorae's house can be exchanged (:mod:`handlers.octavia.drivers` has one
that does nothing outside its own memory, and the real one); the specification's loop in terms of them, :func:`housekeep`;
and its exceptions. Every error of an API or of the database becomes exactly one of these:

======================== ==============================================================================================
NotFoundError            the object does not exist (404)
UnauthorizedException    we are not let in, or not allowed to (401, 403)
UnavailableException     no answer, an answer of 5xx, a state in which the call is refused (409), a database that is down
DeleteFailed             a removal was refused for good, or was accepted and did not happen
NotImplementedError      the method is switched off, or this driver does not have it
======================== ==============================================================================================

Source: Octavia's ``specs/version0.5/housekeeping-manager-interface.rst``; the mapping of HTTP answers is ours.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from handlers.base import Unavailable

LOG = logging.getLogger(__name__)


class AmphoraDriverError(Exception):
    """Root of what a driver raises on purpose."""


class NotFoundError(AmphoraDriverError):
    """The object does not exist."""


class UnavailableException(AmphoraDriverError, Unavailable):
    """The call cannot be answered now: look again later; nothing is proved by it.

    :param dependency: what did not answer, ``compute``, ``network``, ``image``, ``load-balancer``; or, where only one
        object is in a state that refuses the call, that object: ``server:<id>``
    """


class UnauthorizedException(AmphoraDriverError, Unavailable):
    """We are not let in, or not allowed to: for the work the same as no answer, for the operator something to mend."""


class DeleteFailed(AmphoraDriverError):
    """A removal was refused for good, or was accepted and did not happen."""


class HousekeepingManager(ABC):
    """What keeps the amphorae's house."""

    @abstractmethod
    def get_spare_amphora_size(self) -> int:
        """Return how many spare amphorae there should be.

        :raises NotImplementedError: when this manager keeps none
        """

    @abstractmethod
    def get_ready_spare_amphora_count(self) -> int:
        """Return how many spare amphorae are ready to be used.

        :raises NotImplementedError: when this manager keeps none
        :raises AmphoraDriverError: see the module
        """

    @abstractmethod
    def create_amphora(self, num_to_create: int = 1) -> None:
        """Begin to build spare amphorae; it does not wait for them, and never has more under way than it may.

        :raises NotImplementedError: when this manager keeps none
        :raises AmphoraDriverError: see the module
        """

    @abstractmethod
    def remove_amphora(self, amphora_ids: Sequence[str]) -> None:
        """Remove deactivated amphorae, wholly, and make sure that they are gone.

        :raises NotFoundError: when there is no such amphora; the others are removed all the same
        :raises DeleteFailed: when one cannot be removed, or is still there; the others are removed all the same
        :raises AmphoraDriverError: see the module
        """


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the loop did.

    :param ready: spares that were ready when it began
    :param wanted: spares that there should be
    :param preserved: amphorae that were kept for examination
    :param removed: amphorae that were removed
    """

    ready: int
    wanted: int
    preserved: tuple[str, ...]
    removed: tuple[str, ...]


def housekeep(manager: HousekeepingManager, deactivated: Iterable[str], preserve: Callable[[str], bool]) -> Turn:
    """Turn the specification's loop once: log the pool's size, top it up, preserve or remove what is deactivated.

    The machine turns the same loop event by event: topping up is the handler ``spare_pool``, the rest are
    ``failed_amphora`` and ``deactivated_amphorae``.

    :param deactivated: ids of amphorae that serve no load balancer any more
    :param preserve: keeps one if it is eligible and there is room, and tells whether it did
    :raises AmphoraDriverError: see the module
    """
    ready, wanted = top_up(manager)
    kept: list[str] = []
    gone: list[str] = []
    for amphora in deactivated:
        (kept if preserve(amphora) else gone).append(amphora)
    if gone:
        manager.remove_amphora(gone)
    return Turn(ready, wanted, tuple(kept), tuple(gone))


def tell_size(manager: HousekeepingManager) -> tuple[int, int]:
    """Log the size of the spare pool.

    :return: how many spares are ready, and how many there should be; zeros where the manager keeps none
    :raises AmphoraDriverError: see the module
    """
    try:
        wanted = manager.get_spare_amphora_size()
        ready = manager.get_ready_spare_amphora_count()
    except NotImplementedError:
        return 0, 0
    LOG.info("spare amphora pool: %d of %d ready", ready, wanted)
    return ready, wanted


def top_up(manager: HousekeepingManager) -> tuple[int, int]:
    """Log the size of the spare pool, and begin to build what is missing.

    :return: as :func:`tell_size`
    :raises AmphoraDriverError: see the module
    """
    ready, wanted = tell_size(manager)
    if ready < wanted:
        manager.create_amphora(wanted - ready)
    return ready, wanted
