"""A state in which a heal is proved, and the changes of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from handlers.base import Handler, Key
from tests.functional.nova.proofs.stage import Scene, Stage

#: changes the records of a subject: an instance, a host ...
Act = Callable[[Stage, str], object]


class Moment(StrEnum):
    """When a record changes."""

    BEFORE = "before the inspection"
    BETWEEN = "between inspection and heal"


@dataclass(frozen=True)
class Change:
    """A record that is removed, altered or added.

    :param moments: the times at which it must stop the heal
    :param alone: whether it concerns its subject alone, and no other one of a batch
    :param spares: the prefix of the tables that stay unchanged, where the change stops a part of the heal only
    """

    act: Act
    moments: tuple[Moment, ...] = tuple(Moment)
    alone: bool = True
    spares: str = ""


#: changes by name
Changes = Mapping[str, Change | Act]


@dataclass(frozen=True)
class Drift:
    """A drift that its handler heals.

    :param build: makes the drift, and returns the key to inspect and the subjects
    :param healed: whether the heal has done to a subject what the page says
    :param changed: the tables that the heal changes, as ``database.table``
    :param proof: by the words of the page: the changes that remove this record
    :param contradiction: by the words of the page: the changes that add this record
    :param state: tells apart the states of one problem
    :param one: the drift of a single subject, where this one is a batch of them
    :param needs: the dependencies whose answers the heal needs, beside its own cell
    :param swept: whether the sweep yields the key; a batch may need more subjects
    """

    handler: type[Handler]
    problem: str
    build: Callable[[Stage], tuple[Key, Sequence[str]]]
    healed: Callable[[Stage, str], bool]
    changed: frozenset[str]
    proof: Mapping[str, Changes] = field(default_factory=dict)
    contradiction: Mapping[str, Changes] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    state: str = ""
    one: Drift | None = None
    needs: tuple[str, ...] = ("cell2", "placement", "network", "block-storage")
    swept: bool = True

    def __str__(self) -> str:
        return "-".join(part for part in (self.handler.name, self.problem, self.state) if part)

    def cases(self) -> Iterator[Case]:
        """Yield every change at each of its moments."""
        source = self.one or self
        for words, changes in [*source.proof.items(), *source.contradiction.items()]:
            for name, change in changes.items():
                whole = change if isinstance(change, Change) else Change(change)
                for moment in whole.moments:
                    yield Case(self, words, name, whole, moment)


@dataclass(frozen=True)
class Case:
    """One change of one drift at one moment."""

    drift: Drift
    words: str
    name: str
    change: Change
    moment: Moment

    def __str__(self) -> str:
        return f"{self.drift}: {self.words} / {self.name} / {self.moment}"


@dataclass
class Built:
    """A drift on the stage, with the state to which each test returns."""

    drift: Drift
    scene: Scene
    key: Key
    subjects: Sequence[str]
