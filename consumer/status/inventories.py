from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from consumer.text import reason_of
from handlers.base import HandlerError, Inventory

LOG = logging.getLogger(__name__)

#: Seconds between two readings.
_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of an inventory, as last read.

    :param read_at: seconds of the monotonic clock; None if no reading succeeded
    :param problem: why the last reading failed; then ``items`` come from an earlier reading, if any
    """

    title: str
    columns: tuple[str, ...]
    items: tuple[Mapping[str, Any], ...] = ()
    read_at: float | None = None
    problem: str = ""

    def age(self, clock: float) -> float | None:
        return None if self.read_at is None else max(0.0, clock - self.read_at)


class Inventories:
    """Reads all inventories once a minute, in a thread, so that the status page calls no API."""

    def __init__(
        self, make: Callable[[], Sequence[Inventory]], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = make
        self._monotonic = monotonic
        self._known: dict[str, Listing] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inventories", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()  # a reading that waits for a silent API ends with the process
        if self._thread.is_alive():
            self._thread.join(1)

    def known(self) -> tuple[Listing, ...]:
        return tuple(self._known.values())

    def refresh(self) -> None:
        """Read all inventories. If an inventory cannot be read, keep its earlier objects."""
        found = [self._read(inventory) for inventory in self._make()]
        self._known = {listing.title: listing for listing in found}

    def _read(self, inventory: Inventory) -> Listing:
        try:
            items = tuple(inventory.items())
        except HandlerError as error:
            before = self._known.get(inventory.title, Listing(inventory.title, inventory.columns))
            return replace(before, problem=reason_of(error))
        return Listing(inventory.title, inventory.columns, items, self._monotonic())

    def _run(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception:  # the thread must survive its own bugs
                LOG.exception("a bug in the reading of inventories")
            if self._stop.wait(_EVERY):
                return
