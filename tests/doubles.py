"""A handler over a world that is a dictionary: what the engine's tests heal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Self

from handlers.base import (
    EXEMPT_TAG,
    Conflict,
    Event,
    Finding,
    Handler,
    Healed,
    Key,
    Mode,
    Refused,
    Resources,
    Trigger,
    Unavailable,
)


def thing(event: Event) -> Key | None:
    """Take the key out of an event; raises on a payload without one."""
    name = event.payload["name"]
    return None if name == "ignored" else Key("thing", name)


@dataclass
class World:
    """Things that are right (0) or drifted (a generation above 0), and how often each was written."""

    things: dict[str, int] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    before_look: Callable[[Key], None] = lambda key: None
    before_heal: Callable[[Finding], None] = lambda finding: None
    after_heal: Callable[[Finding], None] = lambda finding: None
    sweep_error: Exception | None = None
    unhealable: frozenset[str] = frozenset()
    with_one_witness: frozenset[str] = frozenset()
    #: things that their owners exempt; None: nobody can say
    tagged: frozenset[str] | None = frozenset()
    #: whether a question for a thing gets no answer
    silent: bool = False

    def drifted(self) -> set[str]:
        """Return the names of what is wrong."""
        with self.lock:
            return {name for name, generation in self.things.items() if generation}


class Mender(Handler):
    """Sets drifted things to 0, by compare-and-set."""

    name: ClassVar[str] = "mender"
    title: ClassVar[str] = "Mends things"
    group: ClassVar[str] = "audit"
    kinds: ClassVar[tuple[str, ...]] = ("thing",)
    healable_problems: ClassVar[frozenset[str]] = frozenset({"broken"})
    witnessed_problems: ClassVar[frozenset[str]] = frozenset({"ownerless"})
    triggers: ClassVar[tuple[Trigger, ...]] = (Trigger("thing.broken", thing), Trigger("thing.slow", thing, after=0.5))
    default_mode: ClassVar[Mode] = Mode.HEAL
    default_interval: ClassVar[int] = 3600
    requires: ClassVar[tuple[str, ...]] = ("workshop",)
    concerned_kinds: ClassVar[frozenset[str]] = frozenset({"host"})

    def __init__(self, world: World) -> None:
        self.world = world

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(lambda _resources: World()))

    def inspect(self, key: Key) -> Iterable[Finding]:
        self.world.before_look(key)
        generation = self.world.things.get(key.id, 0)
        if generation:
            approvable = key.id in self.world.with_one_witness
            healable = key.id not in self.world.unhealable and not approvable
            refusal = "" if healable else "look for its owner" if approvable else "nobody knows how"
            yield Finding(
                key,
                "ownerless" if approvable else "broken",
                f"{key.id} is broken",
                {"generation": generation},
                healable,
                refusal,
                undo=f"break {key.id}",
                plan=f"set {key.id} from {generation} to 0",
                concerns=frozenset({f"host:shelf-{key.id}"}),
                approvable=approvable,
            )

    def exempting_tag(self, finding: Finding) -> str:
        if self.world.tagged is None:
            raise Unavailable("owners", "no answer")
        return f"{finding.key} has the tag {EXEMPT_TAG}" if finding.key.id in self.world.tagged else ""

    def sweep(self) -> Iterator[Key]:
        yield from (Key("thing", name) for name in sorted(self.world.drifted()))
        if self.world.sweep_error:
            raise self.world.sweep_error

    def population(self) -> int:
        return len(self.world.things)

    def heal(self, finding: Finding) -> Healed:
        self.world.before_heal(finding)
        name = finding.key.id
        if not finding.healable and not finding.witnessed:
            raise Refused(finding.refusal)
        with self.world.lock:
            if self.world.things[name] != finding.evidence["generation"]:
                raise Conflict(f"{name} has changed")
            self.world.things[name] = 0
            self.world.writes[name] = self.world.writes.get(name, 0) + 1
        self.world.after_heal(finding)
        return Healed(
            f"mended {name}", {"generation": finding.evidence["generation"]}, {"generation": 0}, f"break {name}"
        )


class CarefulMender(Mender):
    """The same, but a finding must be seen twice."""

    name: ClassVar[str] = "careful_mender"
    triggers: ClassVar[tuple[Trigger, ...]] = (Trigger("thing.broken", thing),)
    confirm_after: ClassVar[float] = 0.3
