"""The contract between the machine (``consumer``) and the handlers. The machine knows nothing else of a handler.

A handler stands for one kind of drift and answers three questions, always in this order:

``sweep``    Which keys look wrong?  It reads sets; it is cheap; it may list too many or too few.
``inspect``  Is this one key really wrong?  It reads the authoritative databases and APIs, and is the only place of proof.
``heal``     Repair the proved drift.  It is the only method that writes.

Events, sweeps, commands and operators all take this way. An event is an untrusted hint: a :class:`Trigger` takes a
:class:`Key` out of its payload, and no other part of the payload reaches a handler. Audit mode never calls ``heal``.

The rule of proof: a heal that moves, takes or deletes something needs two independent records that support it, and no
record that contradicts it. A missing row is never such a record. A database or an API that does not answer stops the heal.

This module imports nothing of ``consumer``.
"""

from __future__ import annotations

import logging
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from oslo_config import cfg

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: Evidence and values of the history: anything that ``json.dumps`` takes.
Json = Mapping[str, Any]


class Mode(StrEnum):
    """What a handler may do."""

    OFF = "off"
    AUDIT = "audit"
    HEAL = "heal"


class Verdict(StrEnum):
    """What ``stackmend check`` thinks of one part of a deployment."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The object to inspect, written ``kind:id``.

    :param kind: ``instance``, ``host``, ``aggregate``, ``cell``, ``consumer``, ``amphora`` ...; it contains no colon
    :param id: a UUID or a name of 1 to 255 characters, none of which is a control character
    :param weight: how many objects the key stands for; not part of its identity
    :raises ValueError: when kind or id is not of this form
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
        """Read ``kind:id``.

        :raises ValueError: when the text is not of this form
        """
        kind, _, identity = text.partition(":")
        return cls(kind, identity)


def keys_of(kind: str, identities: Iterable[str]) -> Iterator[Key]:
    """Yield a key for each identity; log and skip an identity that cannot be a key, so that it stops no sweep."""
    for identity in identities:
        try:
            yield Key(kind, identity)
        except ValueError as error:
            LOG.warning("a row is left out of the sweep: %s", error)


@dataclass(frozen=True, slots=True)
class Event:
    """One notification, decoded; the versioned and the legacy format of a fact give the same event.

    :param type: the versioned name, e.g. ``instance.delete.end``, for the legacy format too
    :param payload: plain nested dicts and lists; versioned objects are unwrapped to their data
    :param id: the notification's ``message_id``, for tracing only
    :param publisher: ``nova-compute:host`` or ``compute.host``; never used as a key
    :param sent_at: the publisher's time of sending (UTC, aware); None when the notification has none
    :param broker: the name of the broker that delivered it
    :param format: ``versioned`` or ``unversioned``; empty where the publisher knows one format only. Handlers ignore it
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
    """An event that hints at a handler's drift.

    :param event: the event type
    :param key: takes the key out of the event; returns None for an event that does not concern the handler, such as a
        service that is not nova-compute. Its input is untrusted: when it raises, the notification becomes a dead letter
    :param after: seconds to wait before the first inspection, for events that are sent before their sender has finished
    """

    event: str
    key: Callable[[Event], Key | None]
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A proved drift of one key.

    :param problem: a slug for the kind of drift, stable over releases: ``host-unmapped``
    :param summary: one sentence for a person: the object and its drift
    :param evidence: the proof: ids, generations, states, old values; it survives a round trip through JSON. It contains no
        clock readings, because two inspections must give the same evidence for the same drift
    :param healable: whether ``heal`` may be called for it
    :param refusal: the reason why it is not healable
    :param weight: how many objects its heal changes; budgets, the breaker and the history count it
    :param undo: the commands or statements that take the heal back, where they are known before it
    :param begun: whether the heal continues one that has started and must not stop halfway; budget, window, pause and
        breaker do not stop it
    """

    key: Key
    problem: str
    summary: str
    evidence: Json = field(default_factory=dict)
    healable: bool = True
    refusal: str = ""
    weight: int = 1
    undo: str = ""
    begun: bool = False

    def same_as(self, other: Finding) -> bool:
        """Return whether another inspection proved the same drift; wording, weight, undo and begun do not count."""
        mine = (self.key, self.problem, self.healable, self.evidence)
        return mine == (other.key, other.problem, other.healable, other.evidence)


@dataclass(frozen=True, slots=True)
class Healed:
    """The changes that a heal made, for the history.

    :param action: one sentence, past tense: ``mapped host compute-7 to cell cell1``
    :param before: the old values
    :param after: the new values
    :param undo: the commands or statements that take the heal back
    :param complete: False when more steps follow, so that the key is inspected again at once
    """

    action: str
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)
    undo: str = ""
    complete: bool = True


class HandlerError(Exception):
    """Root of the errors that a handler raises on purpose. Any other error is a bug: it is retried, then parked."""


class InFlight(HandlerError):
    """Nova or Octavia is working on the object, so its state proves nothing now.

    :param after: seconds until another inspection makes sense
    """

    def __init__(self, reason: str, after: float = 10.0) -> None:
        super().__init__(reason)
        self.after = after


class Unavailable(HandlerError):
    """A database or an API that the proof needs did not answer. Unknown never means absent: nothing is changed.

    :param dependency: ``placement``, ``nova_api``, ``cell:<name>`` ...
    """

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency}: {reason}")
        self.dependency = dependency


class Conflict(HandlerError):
    """The world changed between the proof and the write; nothing was written. The key is inspected from the start."""


class Refused(HandlerError):
    """A heal would be unsafe or ambiguous: report, never heal."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A message broker that delivers notifications.

    :param name: its name in logs and metrics: ``nova``, ``cell:cell1``, ``octavia``
    :param transport_url: an oslo.messaging URL, with its secrets: never log it
    :param exchanges: the topic exchanges of the services that publish there; needed to bind a queue of our own
    :param options: names and values of ``[oslo_messaging_rabbit]`` in the files of these services: TLS and its files
    """

    name: str
    transport_url: str = field(repr=False)
    exchanges: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages wait in a queue, and how many consumers it has."""

    messages: int
    consumers: int


def _no_queue(broker: Broker, queue: str) -> QueueDepth:
    raise Unavailable(f"broker:{broker.name}", f"this process cannot ask for the queue {queue}")


@dataclass(frozen=True, slots=True)
class Bus:
    """What the machine knows about RabbitMQ, for handlers and checks; they never reach a broker themselves.

    :param topics: the topics whose notifications the machine consumes
    :param topics_option: the option that names them: ``[bus] topics``
    :param queue_depth: asks a broker for a queue by a passive declaration, which changes nothing; it raises
        :class:`Unavailable` when no host answers or the queue does not exist, and ``cfg.Error`` for a malformed URL
    """

    topics: tuple[str, ...] = ()
    topics_option: str = "[bus] topics"
    queue_depth: Callable[[Broker, str], QueueDepth] = _no_queue


@dataclass(frozen=True, slots=True)
class Role:
    """A Keystone role that calls to an API need.

    :param any_of: one of these roles is enough; the first allows least
    :param purpose: the calls that need it, for ``stackmend check``
    :param verdict: of its lack: a warning where it depends on the release of the other service
    """

    any_of: tuple[str, ...]
    purpose: str
    verdict: Verdict = Verdict.FAILURE


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles that a handler needs.

    :param inspect: in every mode
    :param heal: in mode ``heal``, besides
    """

    inspect: tuple[Role, ...] = ()
    heal: tuple[Role, ...] = ()

    def needed(self, mode: Mode) -> tuple[Role, ...]:
        """Return the roles that a mode needs."""
        return self.inspect + self.heal if mode is Mode.HEAL else self.inspect


@dataclass(frozen=True, slots=True)
class Rising:
    """Values of a database that grow and never go back, so that a fall proves an older copy.

    :param label: what they belong to: ``instances``
    :param witnesses: values by name: ``highest id``
    :param quorum: how many of them must go back together. Each alone may have an innocent reason: a purge deletes the
        newest row, another writer of a Galera cluster counts in steps
    """

    label: str
    witnesses: Mapping[str, int]
    quorum: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """What one database held at one moment. The machine compares it with the next one, and remembers it over restarts.

    :param database: ``nova_api``, ``cell:<name>``, ``placement``, ``octavia_database``
    :param server: the server that answered, for messages only: the writers of a cluster take turns
    :param rising: values that only grow
    :param anchors: old rows that stay the same as long as they exist, by name
    """

    database: str
    server: str
    rising: tuple[Rising, ...] = ()
    anchors: Mapping[str, str] = field(default_factory=dict)


#: Reads the watermarks of a service's databases (entry point ``stackmend.watermarks``). A database that does not answer is
#: left out: silence proves nothing.
Watermarks = Callable[["Resources"], Iterable[Watermark]]


class Privilege(StrEnum):
    """A database privilege that a heal needs beside SELECT."""

    DELETE = "DELETE"
    INSERT = "INSERT"
    UPDATE = "UPDATE"


#: The name that stands for every table of a database in :data:`Rights`.
EVERY_TABLE = "*"

#: Privileges that the heals of a handler need: by database (``nova_api``, ``cell``, ``octavia``), then by table.
Rights = Mapping[str, Mapping[str, frozenset[Privilege]]]


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one part of a deployment, for ``stackmend check``.

    :param subject: the part: ``nova.conf: notifications``
    :param text: the observation and, for a warning or a failure, the line to write or the statement to run; no secrets
    """

    subject: str
    verdict: Verdict
    text: str = ""


@runtime_checkable
class Warns(Protocol):
    """A shared object that knows why handlers cannot heal or inspect."""

    def warnings(self) -> Iterable[str]:
        """Yield one sentence for each reason.

        :raises HandlerError: when the object does not answer
        """


class Resources:
    """The objects that the handlers of one process share (engines, sessions, clients), each made on first use.

    :param conf: the loaded configuration, with every handler's options registered
    :param bus: the machine's knowledge of RabbitMQ
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus | None = None) -> None:
        self.conf = conf
        self.bus = bus or Bus()
        self._made: dict[Callable[..., Any], Any] = {}
        self._lock = threading.RLock()

    def get(self, make: Callable[[Resources], T]) -> T:
        """Return ``make(self)``, called at most once for this object; ``make`` is usually a class's ``from_resources``."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self)
            made: T = self._made[make]
            return made

    def warnings(self) -> Iterator[str]:
        """Yield why handlers cannot heal or inspect, for example an unknown schema, from each :class:`Warns` object.

        An object that does not answer yields nothing: the first inspection reports it.
        """
        with self._lock:
            made = list(self._made.values())
        for one in made:
            if isinstance(one, Warns):
                with suppress(HandlerError):
                    yield from one.warnings()

    def close(self) -> None:
        """Close every object that has a ``close``, in reverse order."""
        with self._lock:
            for one in reversed(list(self._made.values())):
                close = getattr(one, "close", None)
                if callable(close):
                    close()
            self._made.clear()


class Plugin(ABC):
    """An entry point's class, which the machine makes out of the configuration."""

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Return the options of this plugin and of the objects it uses, by group; several plugins may share an option."""
        return {}

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Return whether the configuration names the service that this plugin is about.

        A plugin that does not apply is left out, unless it is asked for by name; then an error names the missing option.

        :param conf: with these options registered
        """
        return True

    @classmethod
    @abstractmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make the plugin.

        :raises cfg.Error: when an option is missing or wrong; the message names option, file and a right value
        """


class Inventory(Plugin):
    """Objects that handlers keep in the cloud for an operator, such as preserved amphorae."""

    #: its name on the command line: ``amphora preserved``
    name: ClassVar[str]
    #: one line for help texts and the page
    title: ClassVar[str]
    #: the values of an item that make the columns of a table; the first is its id
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def items(self) -> Sequence[Json]:
        """Return all items; each has a value for every column.

        :raises Unavailable: when a database or an API does not answer
        """

    @abstractmethod
    def show(self, identity: str) -> Json:
        """Return all that is known of one item.

        :raises LookupError: when there is none
        :raises Unavailable: when a database or an API does not answer
        """

    def release(self, identity: str) -> Healed:
        """Give an item to the operator: it stays in the cloud, and stackmend no longer counts or touches it.

        :raises LookupError: when there is none
        :raises Unavailable, Refused: as in a handler
        """
        raise Refused(f"{self.title}: these items cannot be released")

    def delete(self, identity: str) -> Healed:
        """Delete an item.

        :raises LookupError: when there is none
        :raises Unavailable, Refused: as in a handler
        """
        raise Refused(f"{self.title}: these items cannot be deleted")


class Handler(Plugin):
    """One kind of drift. Threads share an instance: it has no state but the values that its constructor sets."""

    #: the handler's name, as in the specification: ``discover_hosts``; the prefix of its options
    name: ClassVar[str]
    #: one line for ``stackmend handler list`` and the options' help
    title: ClassVar[str]
    #: the option group of ``<name>_interval``, ``<name>_mode``, ``<name>_window``: ``audit`` or ``housekeeping``
    group: ClassVar[str]
    #: the kinds of its keys
    kinds: ClassVar[tuple[str, ...]]
    #: the problems that ``heal`` repairs; it refuses all others. Each has a row in ``doc/source/safety.rst``
    healable_problems: ClassVar[frozenset[str]] = frozenset()
    #: the events that hint at this drift
    triggers: ClassVar[tuple[Trigger, ...]] = ()
    #: seconds between two inspections that must give the same finding; 0 when one inspection is proof
    confirm_after: ClassVar[float] = 0.0
    #: its mode, unless the operator sets one
    default_mode: ClassVar[Mode] = Mode.AUDIT
    #: seconds between two sweeps, unless the operator sets them
    default_interval: ClassVar[int] = 3600
    #: the option of its group that holds its interval, where a specification names one for several handlers; then it has
    #: no ``<name>_interval``, and declares that option itself
    interval_option: ClassVar[str] = ""
    #: objects that it may heal in any hour, unless the operator sets a number; None: as ``[engine] heals_per_hour``
    default_heals_per_hour: ClassVar[int | None] = None
    #: dependencies of every inspection: when one is Unavailable, the handler waits for it as a whole
    requires: ClassVar[tuple[str, ...]] = ()
    #: databases that its proofs rely on: ``nova_api``, ``cell``, ``placement``, ``octavia_database``. When one of them turns
    #: out to be an older copy, the handler stops
    relies_on: ClassVar[tuple[str, ...]] = ()
    #: handlers whose heals this one relies on; a one-shot sweep runs them first
    follows: ClassVar[tuple[str, ...]] = ()
    #: the database privileges that its heals need beside SELECT
    rights: ClassVar[Rights] = {}
    #: the Keystone roles that its calls to APIs need
    roles: ClassVar[Roles] = Roles()
    #: the cost of a sweep and the interval that suits it, for the options' help
    cost: ClassVar[str] = ""

    @abstractmethod
    def inspect(self, key: Key) -> Iterable[Finding]:
        """Prove the drift of one key; read only. No finding means that nothing is wrong.

        :raises InFlight, Unavailable, Refused: findings that were yielded before do not count
        """

    @abstractmethod
    def sweep(self) -> Iterator[Key]:
        """Yield every key that looks wrong; read sets, never object by object.

        :raises Unavailable: when a listing fails, or is empty where that cannot be right. Keys yielded before count
        """

    @abstractmethod
    def population(self) -> int:
        """Return roughly how many objects a sweep covers; the breaker compares the suspects with it."""

    @abstractmethod
    def heal(self, finding: Finding) -> Healed:
        """Repair a finding; idempotent, and compare-and-set on its evidence.

        :raises Conflict: when the evidence no longer holds; nothing was written
        :raises InFlight, Unavailable, Refused: as in :meth:`inspect`
        """

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Heal in steps, and begin no step once ``go_on`` returns False; for heals that may take long.

        A heal that stops early returns ``complete=False``. A heal of one step needs no override.

        :param go_on: asked before each step; it returns False when the window has closed
        :raises: as :meth:`heal`; Conflict also when no step was done
        """
        return self.heal(finding)

    def prove_again(self, finding: Finding) -> Finding:
        """Inspect the key of a finding again, right before its heal writes; return the new finding.

        :raises Refused: when the finding is not healable, or its problem is not one of :attr:`healable_problems`
        :raises Conflict: when the drift is gone or its evidence has changed
        :raises InFlight, Unavailable: as in :meth:`inspect`
        """
        if not finding.healable:
            raise Refused(finding.refusal)
        if finding.problem not in self.healable_problems:
            raise Refused(f"{self.name} does not heal the problem {finding.problem}")
        for now in self.inspect(finding.key):
            if finding.same_as(now):
                return now
        raise Conflict(f"{finding.key} is no longer as it was found")


#: Judges a deployment beyond the options' own rules (entry point ``stackmend.checks``). Its second argument holds every
#: handler with its mode. It only reads, and yields a failure for an object that it cannot check, instead of raising.
Check = Callable[[Resources, Mapping[type[Handler], Mode]], Iterable[Checked]]
