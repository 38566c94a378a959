"""Decides whether a load balancer looks wrong, by rows that the caller has read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from handlers.octavia import records
from handlers.octavia.children import Child

#: seconds for which the number of amphorae must be wrong, because it can be wrong for a moment after a flow has ended
SETTLE = 120.0

#: seconds for which ``failed_amphora`` can still detach the row of an amphora that it preserved
_PRESERVING = 600.0


@dataclass(frozen=True, slots=True)
class Balancer:
    """A load balancer with its amphora rows.

    :param live: rows that are not DELETED
    :param deleted: DELETED rows, except rows that the handler ``failed_amphora`` can still detach
    :param children: the load balancer's listeners, pools and their parts that are in PENDING_*
    """

    row: records.LoadBalancer
    live: tuple[records.Amphora, ...]
    deleted: tuple[records.Amphora, ...]
    children: tuple[Child, ...]

    @classmethod
    def of(cls, row: records.LoadBalancer, amphorae: Iterable[records.Amphora], pending: Iterable[Child]) -> Balancer:
        rows = sorted(amphorae, key=lambda amphora: amphora.id)
        deleted = tuple(amphora for amphora in rows if amphora.status == "DELETED" and not _is_being_preserved(amphora))
        live = tuple(amphora for amphora in rows if amphora.status != "DELETED")
        return cls(row, live, deleted, tuple(pending))

    @property
    def quiet(self) -> float:
        """Seconds since the load balancer's row, or any row of ``live`` or ``deleted``, last changed."""
        return min([self.row.age, *(amphora.age for amphora in (*self.live, *self.deleted))])

    @property
    def is_pending(self) -> bool:
        return self.row.status.startswith("PENDING")

    @property
    def miscounted(self) -> bool:
        """Whether the number of ``live`` amphorae is wrong for the topology. False while a flow works on the load balancer."""
        wanted = records.AMPHORAE_OF.get(self.row.topology or "")
        return self.row.idle and wanted is not None and len(self.live) != wanted

    def has_stuck_children(self, after: float) -> bool:
        """Return whether an ACTIVE load balancer that is ``quiet`` for :data:`SETTLE` seconds has stuck ``children``.

        :param after: seconds for which all children must be unchanged
        """
        ages = [child.age for child in self.children]
        return self.row.status == "ACTIVE" and self.quiet >= SETTLE and bool(ages) and min(ages) >= after

    def looks_wrong(self, after: float, detaches: bool) -> bool:
        """Return whether a sweep must list the load balancer as a suspect.

        :param after: seconds without a change after which no flow works on a load balancer
        :param detaches: whether stackmend detaches DELETED amphora rows. From Octavia 16 on, they make updates fail.
        """
        if self.is_pending:
            return self.quiet >= after
        if not self.row.idle:
            return False
        wrong = (detaches and self.deleted) or self.miscounted or self.row.status == "ERROR"
        return bool(wrong) or self.has_stuck_children(after)


def _is_being_preserved(amphora: records.Amphora) -> bool:
    """Return whether ``failed_amphora`` can still detach an amphora's row, which has no server and changed lately."""
    return amphora.compute_id is None and amphora.age < _PRESERVING
