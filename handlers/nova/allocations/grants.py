"""Gives instances a first or corrected allocation, and takes it back from instances that left their node meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from handlers.base import Conflict, HandlerError, Refused, Unavailable
from handlers.nova.allocations.batches import Missing
from handlers.nova.allocations.missing_facts import Reader
from handlers.nova.allocations.missing_rules import has_departed
from handlers.nova.placement import Allocation, Held, Placement
from handlers.nova.records import Instance


@dataclass(frozen=True, slots=True)
class Granted:
    """The results of writing the allocations of several instances.

    :param unanswered: instances whose write got no answer, so that Placement might have made it
    """

    confirmed: tuple[str, ...]
    unanswered: tuple[str, ...] = ()


class Grants:
    def __init__(self, placement: Placement, reader: Reader) -> None:
        self._placement = placement
        self._reader = reader

    def one(self, before: Allocation, providers: Held) -> None:
        """Replace an allocation.

        :raises Refused: Placement refuses the allocation; or it has an empty consumer, and accepts no first allocation for it
        """
        try:
            self._placement.replace_allocation(before, providers)
        except Conflict:
            if before.generation is None and not self._placement.allocation(before.consumer).providers:
                raise Refused(
                    f"Placement has a consumer {before.consumer} without resources, and refuses every first claim for it: "
                    "delete its row from the table consumers of Placement's database"
                ) from None
            raise

    def several(self, due: Mapping[str, Missing]) -> Granted:
        """Give instances their first allocation, all in one request. If Placement refuses the request, send one for each.

        :param due: by the instance's uuid
        :raises Unavailable: Placement did not answer a write, and had confirmed none
        :raises Conflict, Refused: Placement made no write
        """
        try:
            self._placement.replace_allocations(one.change for one in due.values())
        except (Refused, Conflict) as error:
            return self._one_by_one(due, error)
        return Granted(tuple(due))

    def _one_by_one(self, due: Mapping[str, Missing], error: Refused | Conflict) -> Granted:
        confirmed: list[str] = []
        for instance, one in due.items():
            try:
                with suppress(Refused, Conflict):
                    self._placement.replace_allocation(*one.change)
                    confirmed.append(instance)
            except Unavailable:
                if not confirmed:
                    raise
                return Granted(tuple(confirmed), (instance,))
        if confirmed:
            return Granted(tuple(confirmed))
        if isinstance(error, Conflict):
            raise error
        raise Refused(f"the node cannot give {len(due)} instances their resources: {error}") from error

    def departed(self, cell_id: int, given: Mapping[str, tuple[Instance, Held]]) -> set[str]:
        """Take back the allocations of instances that have left or are leaving their node; return these instances.

        :param given: by instance: its row before the write, and the resources that the write gave
        :raises Unavailable: the rows cannot be read; all allocations were taken back
        """
        try:
            now = self._reader.rows(cell_id, list(given))
        except Unavailable:
            self._take_back({uuid: amounts for uuid, (_, amounts) in given.items()}.items())
            raise
        departed = {uuid for uuid, (instance, _) in given.items() if has_departed(instance, now.get(uuid))}
        self._take_back((uuid, given[uuid][1]) for uuid in departed)
        return departed

    def _take_back(self, given: Iterable[tuple[str, Held]]) -> None:
        failed: HandlerError | None = None
        for instance, amounts in given:
            try:
                now = self._placement.allocation(instance)
                if now.providers == amounts:
                    self._placement.replace_allocation(now, {})
            except HandlerError as error:
                failed = error
        if failed is not None:
            raise failed
