"""The contract of a handler: all that the package ``consumer``, which runs the handlers, knows of them.

A handler has three methods, called in this order:

``sweep``    Which keys look wrong?  A sweep reads in bulk, is cheap, and can list too many or too few keys.
``inspect``  Is this key really wrong?  An inspection proves the drift from the authoritative databases and APIs.
``heal``     Repair the proved drift.  Only this method writes; audit mode never calls it.

An event is an untrusted hint: a :class:`Trigger` takes a :class:`Key` from the event, and nothing else in the event reaches a
handler.

The rule of proof: a heal that moves, takes or deletes an object needs two independent records that support the heal, and no
record that contradicts it. A missing row is never such a record. When a database or an API does not answer, the heal stops.

This module imports nothing from ``consumer``.
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
    """The mode of a handler. In mode ``ask``, each heal waits for an operator's approval."""

    OFF = "off"
    AUDIT = "audit"
    ASK = "ask"
    HEAL = "heal"

    @property
    def heals(self) -> bool:
        """Whether the handler may write, with or without approval."""
        return self in (Mode.ASK, Mode.HEAL)


class Verdict(StrEnum):
    """The verdict of ``stackmend check`` on one part of the deployment."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The object to inspect, written ``kind:id``.

    :param kind: ``instance``, ``host``, ``cell``, ``consumer``, ``amphora`` ...; no colon
    :param id: a UUID or a name: 1 to 255 characters, no control characters
    :param weight: number of objects for which the key stands; equality ignores it
    :raises ValueError: when kind or id is invalid
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

        :raises ValueError: when the text is not a key
        """
        kind, _, identity = text.partition(":")
        return cls(kind, identity)


def keys_of(kind: str, identities: Iterable[str]) -> Iterator[Key]:
    """Yield a key for each identity; log and skip an invalid identity, so that the sweep continues."""
    for identity in identities:
        try:
            yield Key(kind, identity)
        except ValueError as error:
            LOG.warning("a row is left out of the sweep: %s", error)


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded notification; the versioned and the legacy format of a notification give the same event.

    :param type: always the name in the versioned format: ``instance.delete.end``
    :param payload: plain nested dicts and lists
    :param id: the ``message_id``, for tracing only
    :param publisher: ``nova-compute:host`` or ``compute.host``; never used as a key
    :param sent_at: the publisher's time (UTC, aware); None when the notification has no time
    :param format: ``versioned`` or ``unversioned``; empty when the publisher has only one format. Handlers ignore ``format``
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

    :param key: returns the key in an untrusted event; None when the event does not concern the handler. After an exception, the
        notification becomes a dead letter
    :param after: seconds to wait before the first inspection, because some services send an event before their work ends
    :param periodic: whether a service sends the event at intervals for each object, changed or not; other events go first
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
    :param evidence: the values that prove the drift, fit for JSON: ids, generations, states. No clock readings, because two
        inspections of the same drift must give the same evidence
    :param healable: whether ``heal`` may be called
    :param refusal: why ``heal`` must not be called
    :param weight: number of objects that the heal changes; budgets, breaker and history count weights
    :param undo: commands or statements that reverse the heal; empty when not known before the heal
    :param plan: the exact writes of the heal, one per line: request with body and generation, or statement with values
    :param concerns: further objects that an exemption can name: ``host:compute-7``, ``project:<id>``, ``cell:cell1``
    :param approvable: whether it lacks only its second witness, which an operator can be; then ``healable`` is False, and
        ``refusal`` names what the operator must know
    :param witnessed: whether an operator approved it as its second witness; the machine sets this for the heal
    :param begun: whether an earlier heal began a work that must not stop halfway; then no gate stops this heal
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

    def same_as(self, other: Finding) -> bool:
        """Return whether two findings prove the same drift; compare only key, problem, healable and evidence."""
        mine = (self.key, self.problem, self.healable, self.evidence)
        return mine == (other.key, other.problem, other.healable, other.evidence)


@dataclass(frozen=True, slots=True)
class Healed:
    """The changes of a heal, with old and new values, for the history.

    :param action: one sentence, past tense: ``mapped host compute-7 to cell cell1``
    :param undo: the commands or statements that reverse the heal
    :param complete: False when more steps follow; then stackmend inspects the key again at once
    """

    action: str
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)
    undo: str = ""
    complete: bool = True


class HandlerError(Exception):
    """Root of the errors that handlers raise on purpose. Any other error is a bug: stackmend retries, then parks the key."""


class InFlight(HandlerError):
    """Nova or Octavia is working on the object, so the object's state proves nothing now.

    :param after: seconds until another inspection makes sense
    """

    def __init__(self, reason: str, after: float = 10.0) -> None:
        super().__init__(reason)
        self.after = after


class Unavailable(HandlerError):
    """A database or an API that the proof needs did not answer. Unknown never means absent, so the heal changes nothing.

    :param dependency: the database or API: ``placement``, ``nova_api``, ``cell:<name>`` ...
    """

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency}: {reason}")
        self.dependency = dependency
        self.reason = reason


class Incomplete(Unavailable):
    """A sweep listed every key, except those that silent dependencies kept from it.

    :param error: the error of a silent dependency
    :param before: the dependencies that were silent before
    """

    def __init__(self, error: Unavailable, before: Incomplete | None = None) -> None:
        super().__init__(error.dependency, error.reason)
        self.missing: frozenset[str] = _missing(error) | (before.missing if before else frozenset())


def _missing(error: Unavailable) -> frozenset[str]:
    return error.missing if isinstance(error, Incomplete) else frozenset({error.dependency})


class Conflict(HandlerError):
    """The cloud changed between proof and write, and the heal wrote nothing. stackmend inspects the key from the start."""


class Refused(HandlerError):
    """A heal would be unsafe or ambiguous, so stackmend only reports the finding."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A message broker that delivers notifications.

    :param name: the name in logs and metrics: ``nova``, ``cell:cell1``, ``octavia``
    :param transport_url: an oslo.messaging URL with secrets; never log this URL
    :param exchanges: the publishers' topic exchanges, to which stackmend binds its own queue
    :param options: ``[oslo_messaging_rabbit]`` in the publishers' files, for TLS
    """

    name: str
    transport_url: str = field(repr=False)
    exchanges: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    messages: int
    consumers: int


#: reads the queue with this name without a change; raises :class:`Unavailable` when no host answers, when the queue does not
#: exist, and for a malformed URL
QueueReader = Callable[[str], QueueDepth]


def _no_queues(broker: Broker) -> QueueReader:
    def refuse(queue: str) -> QueueDepth:
        raise Unavailable(f"broker:{broker.name}", f"this process cannot ask for the queue {queue}")

    return refuse


@dataclass(frozen=True, slots=True)
class Bus:
    """stackmend's access to RabbitMQ; handlers and checks never connect to a broker themselves.

    :param topics: the topics that stackmend consumes
    :param topics_option: our option that sets ``topics``, for errors
    :param queues: returns the reader of a broker's queues. A handler calls it when it is made, in the main thread: the first
        call imports eventlet, and a thread that imports eventlet can never be joined.
    """

    topics: tuple[str, ...] = ()
    topics_option: str = "[bus] topics"
    queues: Callable[[Broker], QueueReader] = _no_queues


@dataclass(frozen=True, slots=True)
class Role:
    """A Keystone role that API calls need.

    :param any_of: one of these roles is enough; the first one allows least
    :param purpose: the calls that need the role, for ``stackmend check``
    :param verdict: the verdict when the role is missing
    """

    any_of: tuple[str, ...]
    purpose: str
    verdict: Verdict = Verdict.FAILURE


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles that a handler needs.

    :param inspect: roles that every mode but ``off`` needs
    :param heal: further roles that the modes ``ask`` and ``heal`` need
    """

    inspect: tuple[Role, ...] = ()
    heal: tuple[Role, ...] = ()

    def needed(self, mode: Mode) -> tuple[Role, ...]:
        """Return the Keystone roles that the handler needs in a mode other than ``off``."""
        return self.inspect + self.heal if mode.heals else self.inspect


@dataclass(frozen=True, slots=True)
class Rising:
    """Values of a database that only grow. If they fall, the database is an older copy.

    :param label: a name for all values: ``generations of resource providers``
    :param witnesses: the values by name
    :param quorum: number of values that must fall together to prove an older copy
    """

    label: str
    witnesses: Mapping[str, int]
    quorum: int


@dataclass(frozen=True, slots=True)
class Ids:
    """The highest id and the next id of a table.

    A database gives no id twice. Only in an older copy can ``next`` be an id that a row already had. Two values of ``next``
    prove nothing: on Galera, each writer has its own counter.

    :param highest: the highest id of a row, which falls when the newest row is purged; 0 without rows
    :param next: the least id that the next row can get
    """

    label: str
    highest: int
    next: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """The highest ids and some old rows of one database at one moment. stackmend compares it with the stored one.

    :param database: ``nova_api``, ``cell:<name>``, ``placement``, ``octavia_database``
    :param server: the server that answered, for messages only: a cluster has several
    :param rising: values that only grow
    :param ids: the ids of tables with a counter
    :param anchors: values of old rows by name; a value never changes while the row exists
    """

    database: str
    server: str
    rising: tuple[Rising, ...] = ()
    anchors: Mapping[str, str] = field(default_factory=dict)
    ids: tuple[Ids, ...] = ()


#: The scope of a hold over every heal.
EVERYTHING = "all"


@dataclass(frozen=True, slots=True)
class Hold:
    """A reason outside stackmend why heals wait.

    :param scope: ``all``, ``host:<name>`` or ``cell:<name>``
    """

    scope: str
    reason: str


#: Names the configured sources of a service's holds, each with a function that reads them (entry point ``stackmend.holds``).
#: Such a function raises when it cannot read: then every heal waits.
HoldSources = Callable[["Resources"], Iterable[tuple[str, Callable[[], Iterable[Hold]]]]]

#: Reads the watermarks of a service's databases (entry point ``stackmend.watermarks``). A database that does not answer is
#: left out: silence proves nothing.
Watermarks = Callable[["Resources"], Iterable[Watermark]]


class Privilege(StrEnum):
    """A database privilege that a heal needs besides SELECT."""

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
    :param text: the observation, without secrets; a warning or failure also gives the line to write or the statement to run
    """

    subject: str
    verdict: Verdict
    text: str = ""


@runtime_checkable
class Warns(Protocol):
    """A shared object that can give reasons why handlers cannot inspect or heal."""

    def warnings(self) -> Iterable[str]:
        """Yield one sentence for each reason.

        :raises HandlerError: when the database or API behind the object does not answer
        """


class Resources:
    """The objects that one process's handlers share (engines, sessions, clients), each made on first use.

    :param conf: the loaded configuration, with every handler's options registered
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus | None = None) -> None:
        self.conf = conf
        self.bus = bus or Bus()
        self._made: dict[Callable[..., Any], Any] = {}
        self._lock = threading.RLock()

    def get(self, make: Callable[[Resources], T]) -> T:
        """Return ``make(self)``, and call each ``make`` at most once; ``make`` is usually a ``from_resources``."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self)
            made: T = self._made[make]
            return made

    def warnings(self) -> Iterator[str]:
        """Yield the warnings of each :class:`Warns` object; skip an object that raises HandlerError."""
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
    """A class that an entry point names; stackmend makes an instance from the configuration."""

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Return the options of the plugin and of its shared objects, by group; plugins can share an option."""
        return {}

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Return whether the configuration, with these options registered, names the plugin's service.

        If not, stackmend leaves the plugin out. A command that names the plugin gets an error with the missing option.
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
        """Return all items, each with every column.

        :raises Unavailable: when a database or an API does not answer
        """

    @abstractmethod
    def show(self, identity: str) -> Json:
        """Return all known facts of one item.

        :raises LookupError: when there is no such item
        :raises Unavailable: as in :meth:`items`
        """

    def release(self, identity: str) -> Healed:
        """Give an item to the operator. The item stays in the cloud, but stackmend no longer counts or touches it.

        :raises LookupError: when there is no such item
        :raises Unavailable, Refused: as in :meth:`Handler.heal`
        """
        raise Refused(f"{self.title}: these items cannot be released")

    def delete(self, identity: str) -> Healed:
        """Delete an item.

        :raises LookupError, Unavailable, Refused: as in :meth:`release`
        """
        raise Refused(f"{self.title}: these items cannot be deleted")


class Handler(Plugin):
    """One kind of drift. Threads share an instance, so it has no state but the constructor's values."""

    #: the handler's name, as in the specification: ``discover_hosts``; the prefix of its options
    name: ClassVar[str]
    #: one line for ``stackmend handler list`` and the options' help
    title: ClassVar[str]
    #: the option group of ``<name>_interval``, ``<name>_mode``, ``<name>_window``: ``audit`` or ``housekeeping``
    group: ClassVar[str]
    #: the service whose drift it heals: ``nova``, ``octavia``. Each service has workers that no other service takes
    service: ClassVar[str] = ""
    #: the kinds of its keys
    kinds: ClassVar[tuple[str, ...]]
    #: the problems that ``heal`` repairs; it refuses all others. Each has a row in ``doc/source/safety.rst``
    healable_problems: ClassVar[frozenset[str]] = frozenset()
    #: the problems of approvable findings, which ``heal`` repairs only after an operator approved each by its id
    witnessed_problems: ClassVar[frozenset[str]] = frozenset()
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
    #: the kinds of objects of which its findings name all that they belong to: ``host``, ``project``, ``cell``
    concerned_kinds: ClassVar[frozenset[str]] = frozenset()
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
        """Prove one key's drift, without writing. No finding means that nothing is wrong.

        :raises InFlight, Unavailable, Refused: when no proof is possible; then stackmend ignores findings yielded before
        """

    @abstractmethod
    def sweep(self) -> Iterator[Key]:
        """Yield every key that looks wrong; read many objects at a time.

        :raises Unavailable: when a listing fails, or is empty although it cannot be; keys yielded before are valid
        :raises Incomplete: at the end, when all other keys were yielded
        """

    def sweep_rest(self, missing: frozenset[str]) -> Iterator[Key] | None:
        """Return the keys that a sweep did not list before it raised :class:`Incomplete` with these dependencies.

        None means that only a whole sweep lists these keys.

        :raises Unavailable: as in :meth:`sweep`, also from the iterator
        """
        return None

    def require(self, dependency: str) -> None:
        """Ask cheaply whether a dependency that ended a sweep early answers again. By default, assume that it does.

        :raises Unavailable: when the dependency still does not answer
        """

    @abstractmethod
    def population(self) -> int:
        """Return roughly how many objects a sweep covers; the breaker compares the number of yielded keys with it."""

    @abstractmethod
    def heal(self, finding: Finding) -> Healed:
        """Repair a finding, by idempotent writes that succeed only if the evidence still holds.

        :raises Conflict: when the evidence no longer holds; the heal wrote nothing
        :raises InFlight, Unavailable, Refused: as in :meth:`inspect`
        """

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Heal in steps; begin no step once ``go_on`` returns False, because the window has closed.

        Only handlers with long heals override this method. A heal that stops early returns ``complete=False``.

        :raises: as :meth:`heal`; Conflict also when no step was done
        """
        return self.heal(finding)

    def prove_again(self, finding: Finding) -> Finding:
        """Inspect a finding's key again, right before the heal writes; return the new finding.

        :raises Refused: when the finding is neither healable nor witnessed, or the problem is not in :attr:`healable_problems`
            or :attr:`witnessed_problems`
        :raises Conflict: when the drift is gone or the evidence has changed
        :raises InFlight, Unavailable: as in :meth:`inspect`
        """
        if not finding.healable and not finding.witnessed:
            raise Refused(finding.refusal)
        if finding.problem not in (self.healable_problems if finding.healable else self.witnessed_problems):
            raise Refused(f"{self.name} does not heal the problem {finding.problem}")
        for now in self.inspect(finding.key):
            if finding.same_as(now):
                return now
        raise Conflict(f"{finding.key} is no longer as it was found")


#: Judges a deployment beyond the options' own rules (entry point ``stackmend.checks``). Its second argument holds every
#: handler with its mode. It only reads, and yields a failure for an object that it cannot check, instead of raising.
Check = Callable[[Resources, Mapping[type[Handler], Mode]], Iterable[Checked]]
