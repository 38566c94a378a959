"""A state in which a heal is proved, and the changes of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from handlers.base import Handler, Key
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House


@dataclass
class Scene:
    """A cloud, a handler and the key of its drift.

    :param balancer: the load balancer of the drift; empty where there is none
    """

    house: House
    handler: Handler
    key: Key
    queue: Queue = field(default_factory=Queue)
    balancer: str = ""


#: removes, alters or adds a record
Act = Callable[[Scene], object]


@dataclass(frozen=True)
class Drift:
    """A drift that its handler heals.

    :param build: makes the drift
    :param healed: whether the heal has done what the page says
    :param proof: by the words of the page: the changes that remove this record
    :param contradiction: by the words of the page: the changes that add this record
    :param settings: of ``[housekeeping]``
    :param gives_back: changes after which the heal ends its lease and restores the row, so that the health manager acts
    :param between_only: changes that the next inspection takes as the new evidence
    :param swept: whether a sweep yields the key; else an event does
    """

    handler: str
    problem: str
    build: Callable[[House], Scene]
    healed: Callable[[Scene], bool]
    proof: Mapping[str, Mapping[str, Act]]
    contradiction: Mapping[str, Mapping[str, Act]]
    settings: Mapping[str, object] = field(default_factory=dict)
    swept: bool = True
    gives_back: frozenset[str] = frozenset()
    between_only: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.handler}-{self.problem}"

    def cases(self) -> Iterator[Case]:
        """Yield every change, made before the inspection and between inspection and heal."""
        for words, changes in [*self.proof.items(), *self.contradiction.items()]:
            for name, act in changes.items():
                moments = (True,) if name in self.between_only else (False, True)
                yield from (Case(self, words, name, act, between) for between in moments)


@dataclass(frozen=True)
class Case:
    """One change of one drift."""

    drift: Drift
    words: str
    name: str
    act: Act
    between: bool

    @property
    def gives_back(self) -> bool:
        return self.name in self.drift.gives_back

    def __str__(self) -> str:
        return f"{self.drift}: {self.words} / {self.name} / {'between' if self.between else 'before'}"
