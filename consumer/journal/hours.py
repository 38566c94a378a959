"""Counts the history entries of each hour, for the plots of the status page.

No query reads more than one hour, nor more than :data:`MOST` entries of each outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Connection, Select, func, select, union_all

from consumer.journal.history import Outcome
from consumer.journal.schema import history

HOUR = 3600.0
#: The most entries of one outcome that are counted in one hour.
MOST = 2000
#: The outcomes that are counted; all other entries are not about drift.
COUNTED = (
    Outcome.FOUND,
    Outcome.REFUSED,
    Outcome.ASKED,
    Outcome.DENIED,
    Outcome.EXEMPT,
    Outcome.PARKED,
    Outcome.HEALING,
    Outcome.HEALED,
    Outcome.FAILED,
    Outcome.CONFLICT,
)


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour's history entries about drift.

    :param entries: the number of entries, by handler and outcome
    :param lags: seconds from the notification to the end of the heal, for each successful heal that a notification caused
    :param whole: False if one outcome has :data:`MOST` entries or more; further entries are not counted
    """

    begin: float
    entries: Mapping[tuple[str, Outcome], int]
    lags: tuple[float, ...] = ()
    whole: bool = True

    @property
    def settled(self) -> bool:
        """Whether every heal of this hour has ended. The numbers of a past hour are then final."""
        return not any(outcome is Outcome.HEALING for _handler, outcome in self.entries)

    def count(self, outcomes: Sequence[Outcome], handler: str | None = None) -> int:
        """Return the number of entries with one of these outcomes; without ``handler``, of all handlers."""
        return sum(
            number
            for (name, outcome), number in self.entries.items()
            if outcome in outcomes and handler in (None, name)
        )

    @property
    def median_lag(self) -> float | None:
        return median(self.lags) if self.lags else None

    @property
    def longest_lag(self) -> float | None:
        return max(self.lags, default=None)


def read(connection: Connection, begin: float) -> Hour:
    rows = connection.execute(union_all(*(_counted(_first(outcome, begin)) for outcome in COUNTED)))
    entries = {(row.handler, Outcome(row.outcome)): row.entries for row in rows}
    first = _first(Outcome.HEALED, begin).subquery()
    lags = connection.execute(select(first.c.lag).where(first.c.lag.is_not(None))).scalars()
    hour = Hour(begin, entries, tuple(max(0.0, lag) for lag in lags))
    whole = all(hour.count([outcome]) < MOST for outcome in COUNTED)
    return Hour(begin, entries, hour.lags, whole)


def _first(outcome: Outcome, begin: float) -> Select[tuple[str, str, float]]:
    mine = (history.c.outcome == outcome.value, history.c.at >= begin, history.c.at < begin + HOUR)
    columns = select(history.c.handler, history.c.outcome, history.c.lag)
    return columns.where(*mine).order_by(history.c.at).limit(MOST)


def _counted(entries: Select[tuple[str, str, float]]) -> Select[tuple[str, str, int]]:
    few = entries.subquery()
    return select(few.c.handler, few.c.outcome, func.count().label("entries")).group_by(few.c.handler, few.c.outcome)
