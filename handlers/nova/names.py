"""Compares host names as Nova's databases do.

MySQL and MariaDB ignore letter case and trailing spaces: ``Node-1`` and ``node-1`` are one host. PostgreSQL and SQLite compare
every character. Proofs compare names of different rows through :class:`HostNames`, to agree with Nova's queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from sqlalchemy.engine import make_url

_FOLDING = frozenset({"mysql", "mariadb"})


@dataclass(frozen=True, slots=True)
class HostNames:
    """:param exact: whether names that differ only in letter case or trailing spaces are two hosts"""

    exact: bool

    @classmethod
    def of(cls, url: str) -> Self:
        return cls(make_url(url).get_backend_name() not in _FOLDING)

    def normal(self, name: str) -> str:
        """Return the form of a name that all spellings of one host share."""
        return name if self.exact else name.rstrip(" ").casefold()

    def all_normal(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(map(self.normal, names))

    def same(self, one: str | None, other: str | None) -> bool:
        return one is not None and other is not None and self.normal(one) == self.normal(other)
