from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from handlers.base.mode import Mode
from handlers.base.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Role:
    """A Keystone role that API calls need.

    :param any_of: names of roles; one of them is enough. The first role allows least
    :param purpose: the calls that need the role, for ``stackmend check``
    """

    any_of: tuple[str, ...]
    purpose: str
    verdict: Verdict = Verdict.FAILURE


@dataclass(frozen=True, slots=True)
class Roles:
    """The Keystone roles that a handler needs.

    :param inspect: roles for the modes ``audit``, ``ask`` and ``heal``
    :param heal: further roles for the modes ``ask`` and ``heal``
    """

    inspect: tuple[Role, ...] = ()
    heal: tuple[Role, ...] = ()

    def needed(self, mode: Mode) -> tuple[Role, ...]:
        return self.inspect + self.heal if mode.heals else self.inspect


class Privilege(StrEnum):
    """A database privilege that a heal needs besides SELECT."""

    DELETE = "DELETE"
    INSERT = "INSERT"
    UPDATE = "UPDATE"


#: The name that stands for every table of a database in :data:`Rights`.
EVERY_TABLE = "*"


#: Privileges that the heals of a handler need: by database (``nova_api``, ``cell``, ``octavia``), then by table.
Rights = Mapping[str, Mapping[str, frozenset[Privilege]]]
