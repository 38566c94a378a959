from __future__ import annotations

import logging
from collections.abc import Sequence

from handlers.base import HandlerError
from handlers.octavia import removal
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import AmphoraDriverError, HousekeepingManager
from handlers.octavia.spares import pool as spares

LOG = logging.getLogger(__name__)


class Housekeeper(HousekeepingManager):
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def get_spare_amphora_size(self) -> int:
        return sum(pool.wanted for pool in spares.pools((), self._driver.settings))

    def get_ready_spare_amphora_count(self) -> int:
        return sum(
            min(len(pool.ready), pool.wanted) for pool in spares.pools(self._driver.servers(), self._driver.settings)
        )

    def create_amphora(self, num_to_create: int = 1) -> None:
        made = spares.begin(self._driver, num_to_create)
        LOG.debug("began to build %d spare amphorae", len(made))

    def remove_amphora(self, amphora_ids: Sequence[str]) -> None:
        failures: list[AmphoraDriverError | HandlerError] = []
        for amphora in amphora_ids:
            try:
                removal.remove_amphora(self._driver, amphora)
            except (AmphoraDriverError, HandlerError) as error:
                LOG.warning("amphora %s is not removed: %s", amphora, error)
                failures.append(error)
        if failures:
            raise failures[0]
