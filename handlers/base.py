"""The contract between the machine (``consumer``) and the handlers: all that the machine knows of them.

A handler stands for one kind of drift and answers three questions, in this order:

``sweep``    Which keys look wrong?  It reads sets, is cheap, and may list too many or too few.
``inspect``  Is this key really wrong?  It proves the drift from the authoritative databases and APIs.
``heal``     Repair the proved drift.  Only this method writes; audit mode never calls it.

An event is an untrusted hint: a :class:`Trigger` takes a :class:`Key` out of its payload, and nothing else of it reaches a
handler.

The rule of proof: a heal that moves, takes or deletes something needs two independent records that support it, and none
that contradicts it. A missing row is never such a record. A database or an API that does not answer stops the heal.

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
    """A handler's mode."""

    OFF = "off"
    AUDIT = "audit"
    HEAL = "heal"


class Verdict(StrEnum):
    """The verdict of ``stackmend check`` on one part."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The object to inspect, written ``kind:id``.

    :param kind: ``instance``, ``host``, ``cell``, ``consumer``, ``amphora`` ...; no colon
    :param id: a UUID or a name: 1 to 255 characters, no control characters
    :param weight: how many objects it stands for; not part of its identity
    :raises ValueError: for any other kind or id
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

        :raises ValueError: for any other text
        """
        kind, _, identity = text.partition(":")
        return cls(kind, identity)


def keys_of(kind: str, identities: Iterable[str]) -> Iterator[Key]:
    """Yield a key for each identity; log and skip one that cannot be a key, so that it stops no sweep."""
    for identity in identities:
        try:
            yield Key(kind, identity)
        except ValueError as error:
            LOG.warning("a row is left out of the sweep: %s", error)


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded notification; a fact's versioned and legacy formats give the same event.

    :param type: the versioned name, always: ``instance.delete.end``
    :param payload: plain nested dicts and lists
    :param id: the ``message_id``, for tracing only
    :param publisher: ``nova-compute:host`` or ``compute.host``; never used as a key
    :param sent_at: the publisher's time (UTC, aware), if any
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
    """An event type that hints at a handler's drift.

    :param key: takes the key out of an untrusted event; None for one that does not concern the handler. When it raises, the
        notification becomes a dead letter
    :param after: seconds before the first inspection, for events sent before their sender has finished
    """

    event: str
    key: Callable[[Event], Key | None]
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A proved drift of one key.

    :param problem: a slug, stable over releases: ``host-unmapped``
    :param summary: one sentence for a person: the object and its drift
    :param evidence: the proof: ids, generations, states, old values, fit for JSON. No clock readings: two inspections of the
        same drift must give the same evidence
    :param healable: whether ``heal`` may be called
    :param refusal: why it may not
    :param weight: how many objects its heal changes; budgets, breaker and history count it
    :param undo: the commands or statements that take the heal back, where known before it
    :param begun: it continues a heal that must not stop halfway; no budget, window, pause or breaker stops it
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
    """The changes of a heal, with old and new values, for the history.

    :param action: one sentence, past tense: ``mapped host compute-7 to cell cell1``
    :param undo: the commands or statements that take it back
    :param complete: False when more steps follow: the key is inspected again at once
    """

    action: str
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)
    undo: str = ""
    complete: bool = True


class HandlerError(Exception):
    """Root of the errors that handlers raise on purpose. Any other error is a bug: retried, then parked."""


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
    """The world changed between proof and write; nothing was written. The key is inspected from the start."""


class Refused(HandlerError):
    """A heal would be unsafe or ambiguous: report, never heal."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A message broker that delivers notifications.

    :param name: in logs and metrics: ``nova``, ``cell:cell1``, ``octavia``
    :param transport_url: an oslo.messaging URL with secrets: never log it
    :param exchanges: its publishers' topic exchanges, to bind a queue of our own
    :param options: ``[oslo_messaging_rabbit]`` in its publishers' files, for TLS
    """

    name: str
    transport_url: str = field(repr=False)
    exchanges: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The messages that wait in a queue, and its consumers."""

    messages: int
    consumers: int


def _no_queue(broker: Broker, queue: str) -> QueueDepth:
    raise Unavailable(f"broker:{broker.name}", f"this process cannot ask for the queue {queue}")


@dataclass(frozen=True, slots=True)
class Bus:
    """The machine's knowledge of RabbitMQ; handlers and checks never reach a broker themselves.

    :param topics: those that the machine consumes
    :param queue_depth: reads a queue without changing it; raises :class:`Unavailable` when no host answers or the queue does
        not exist, ``cfg.Error`` for a malformed URL
    """

    topics: tuple[str, ...] = ()
    topics_option: str = "[bus] topics"
    queue_depth: Callable[[Broker, str], QueueDepth] = _no_queue


@dataclass(frozen=True, slots=True)
class Role:
    """A Keystone role that API calls need.

    :param any_of: one is enough; the first allows least
    :param purpose: the calls, for ``stackmend check``
    :param verdict: if the role is missing
    """

    any_of: tuple[str, ...]
    purpose: str
    verdict: Verdict = Verdict.FAILURE


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles that a handler needs.

    :param heal: those that only mode ``heal`` needs
    """

    inspect: tuple[Role, ...] = ()
    heal: tuple[Role, ...] = ()

    def needed(self, mode: Mode) -> tuple[Role, ...]:
        """Return the roles that a mode needs."""
        return self.inspect + self.heal if mode is Mode.HEAL else self.inspect


@dataclass(frozen=True, slots=True)
class Rising:
    """Values of a database that only grow, so that a fall proves an older copy.

    :param label: their subject: ``instances``
    :param witnesses: values by name: ``highest id``
    :param quorum: how many must fall together. One alone may fall for an innocent reason: a purge deletes the newest row,
        another writer of a Galera cluster counts in steps
    """

    label: str
    witnesses: Mapping[str, int]
    quorum: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """One database at one moment. The machine compares it with the next one, and remembers it over restarts.

    :param database: ``nova_api``, ``cell:<name>``, ``placement``, ``octavia_database``
    :param server: the one that answered, for messages only: the writers of a cluster take turns
    :param anchors: old rows by name, the same as long as they exist
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
    """One line of ``stackmend check``.

    :param subject: the part of the deployment: ``nova.conf: notifications``
    :param text: the observation; for a warning or a failure also the line to write or the statement to run; no secrets
    """

    subject: str
    verdict: Verdict
    text: str = ""


@runtime_checkable
class Warns(Protocol):
    """A shared object that knows why handlers cannot heal or inspect."""

    def warnings(self) -> Iterable[str]:
        """Yield one sentence for each reason.

        :raises HandlerError: the object does not answer
        """


class Resources:
    """The objects that one process's handlers share (engines, sessions, clients), each made on first use.

    :param conf: loaded, with every handler's options registered
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus | None = None) -> None:
        self.conf = conf
        self.bus = bus or Bus()
        self._made: dict[Callable[..., Any], Any] = {}
        self._lock = threading.RLock()

    def get(self, make: Callable[[Resources], T]) -> T:
        """Return ``make(self)``, called at most once; ``make`` is usually a ``from_resources``."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self)
            made: T = self._made[make]
            return made

    def warnings(self) -> Iterator[str]:
        """Yield the warnings of each :class:`Warns` object that answers."""
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
    """A class behind an entry point, which the machine makes from the configuration."""

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Return the options of this plugin and its objects, by group; plugins may share an option."""
        return {}

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Return whether the configuration, with these options registered, names this plugin's service.

        If not, the machine leaves the plugin out; a command that names it gets an error with the missing option.
        """
        return True

    @classmethod
    @abstractmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make the plugin.

        :raises cfg.Error: an option is missing or wrong; the message names option, file and a right value
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
        """Return all items, each with every column.

        :raises Unavailable: a database or an API does not answer
        """

    @abstractmethod
    def show(self, identity: str) -> Json:
        """Return all known facts of one item.

        :raises LookupError: there is none
        :raises Unavailable: as in :meth:`items`
        """

    def release(self, identity: str) -> Healed:
        """Give an item to the operator: it stays in the cloud; stackmend no longer counts or touches it.

        :raises LookupError: there is none
        :raises Unavailable, Refused: as in a handler
        """
        raise Refused(f"{self.title}: these items cannot be released")

    def delete(self, identity: str) -> Healed:
        """Delete an item.

        :raises LookupError, Unavailable, Refused: as in :meth:`release`
        """
        raise Refused(f"{self.title}: these items cannot be deleted")


class Handler(Plugin):
    """One kind of drift. Threads share an instance: it has no state but its constructor's values."""

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
        """Prove one key's drift; read only. No finding means that nothing is wrong.

        :raises InFlight, Unavailable, Refused: findings yielded before do not count
        """

    @abstractmethod
    def sweep(self) -> Iterator[Key]:
        """Yield every key that looks wrong; read sets, never object by object.

        :raises Unavailable: a listing fails, or is empty where that cannot be right. Keys yielded before count
        """

    @abstractmethod
    def population(self) -> int:
        """Return roughly how many objects a sweep covers; the breaker compares the suspects with it."""

    @abstractmethod
    def heal(self, finding: Finding) -> Healed:
        """Repair a finding; idempotent, and compare-and-set on its evidence.

        :raises Conflict: the evidence no longer holds; nothing was written
        :raises InFlight, Unavailable, Refused: as in :meth:`inspect`
        """

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Heal in steps; begin none once ``go_on`` returns False, because the window has closed. Only long heals override it.

        A heal that stops early returns ``complete=False``.

        :raises: as :meth:`heal`; Conflict also when no step was done
        """
        return self.heal(finding)

    def prove_again(self, finding: Finding) -> Finding:
        """Inspect a finding's key again, right before its heal writes; return the new finding.

        :raises Refused: the finding is not healable, or its problem is not in :attr:`healable_problems`
        :raises Conflict: the drift is gone or its evidence has changed
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
