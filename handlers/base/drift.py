from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Self

LOG = logging.getLogger(__name__)


#: Evidence and values of the history: anything that ``json.dumps`` takes.
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The object to inspect, written ``kind:id``.

    :param kind: ``instance``, ``host``, ``cell``, ``consumer``, ``amphora`` ...; no colon
    :param id: a UUID or a name: 1 to 255 characters, no ASCII control characters
    :param weight: number of objects for which the key stands; comparisons of keys ignore ``weight``
    :raises ValueError: kind or id is invalid
    """

    kind: str
    id: str
    weight: int = field(default=1, compare=False)

    MAX_ID: ClassVar[int] = 255

    def __post_init__(self) -> None:
        if not self.kind or ":" in self.kind or not self.id:
            text = f"{self.kind}:{self.id}"
            raise ValueError(f"{text!r} is not a key; write kind:id, for example instance:{uuid.UUID(int=0)}")
        if len(self.id) > self.MAX_ID:
            raise ValueError(f"the key '{self.kind}:{self.id[:40]}...' is longer than {self.MAX_ID} characters")
        if any(ord(character) < 32 or ord(character) == 127 for character in self.id):
            raise ValueError(f"the key {str(self)!r} contains a control character")

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        kind, _, identity = text.partition(":")
        return cls(kind, identity)


def keys_of(kind: str, identities: Iterable[str]) -> Iterator[Key]:
    """Yield a key for each id in ``identities``; log and skip invalid ids."""
    for identity in identities:
        try:
            yield Key(kind, identity)
        except ValueError as error:
            LOG.warning("a row is left out of the sweep: %s", error)


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded notification of Nova, Octavia or Cinder.

    :param type: the name in the versioned format, whatever the notification's format: ``instance.delete.end``
    :param payload: plain nested dicts and lists
    :param id: the ``message_id``, for tracing only
    :param publisher: ``nova-compute:host`` or ``compute.host``; never used as a key
    :param sent_at: the publisher's time (UTC, aware), if the notification has one
    :param format: ``versioned`` or ``unversioned``; empty for Octavia, Cinder and a few legacy events of Nova
    """

    type: str
    payload: Json
    id: str = ""
    publisher: str = ""
    sent_at: datetime | None = None
    broker: str = ""
    format: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A type of event after which a handler inspects a key.

    :param key: returns the key in an untrusted event; None if the event does not concern the handler. If the function raises
        an exception, the notification becomes a dead letter
    :param after: seconds before the first inspection, because some services send an event before their work ends
    :param periodic: whether a service sends the event at intervals, even without a change. Hints of periodic events come last
    """

    event: str
    key: Callable[[Event], Key | None]
    after: float = 0.0
    periodic: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A proved drift of one key.

    :param problem: a short name, the same in all releases: ``host-unmapped``
    :param summary: one sentence for a person: the object and its drift
    :param evidence: values that prove the drift, fit for JSON: ids, generations, states. No clock readings, because two
        inspections of one drift must give equal evidence
    :param healable: whether the handler may heal the finding without an operator as witness
    :param refusal: why the finding is not ``healable``
    :param undo: commands or statements that reverse the heal, or ``none:`` and the reason; empty if unknown before the heal
    :param plan: the writes of the heal, one per line: a request with its body, or an SQL statement with its values
    :param concerns: further objects that an exemption or a hold can name: ``host:compute-7``, ``project:<id>``, ``cell:cell1``
    :param approvable: whether nothing but a second witness is missing, and an operator can be this witness. Then
        ``healable`` is False, and ``refusal`` names the facts that the operator must examine
    :param witnessed: whether an operator, as second witness, approved the finding; ``consumer`` sets this value before the heal
    :param exempted: the object whose tag exempts the finding (:meth:`Handler.exempting_tag`); ``consumer`` sets it before
        the gates decide
    :param begun: whether an earlier heal began work that must not stop halfway; no gate stops the heal of such a finding
    """

    key: Key
    problem: str
    summary: str
    evidence: Json = field(default_factory=dict)
    healable: bool = True
    refusal: str = ""
    weight: int = 1
    undo: str = ""
    plan: str = ""
    concerns: frozenset[str] = frozenset()
    begun: bool = False
    approvable: bool = False
    witnessed: bool = False
    exempted: str = ""

    def same_as(self, other: Finding) -> bool:
        """Return whether two findings have the same key, problem, healable and evidence, and so prove the same drift."""
        mine = (self.key, self.problem, self.healable, self.evidence)
        return mine == (other.key, other.problem, other.healable, other.evidence)


@dataclass(frozen=True, slots=True)
class Healed:
    """The changes of a heal, with old and new values, for the history.

    :param action: the act in past tense: ``mapped host compute-7 to cell cell1``
    :param complete: False if the heal needs more steps; then stackmend inspects the key again at once
    """

    action: str
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)
    undo: str = ""
    complete: bool = True
