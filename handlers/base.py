"""The contract between the machine and the work: everything that ``consumer`` may know about a handler.

A handler stands for one kind of drift. It is asked three things, always in this order, whoever asks (a notification, a
sweep, a one-shot command, an operator who typed a key):

``sweep``    which keys look wrong?          reads sets, cheap, may be wrong in both directions
``inspect``  is this one key really wrong?   reads the authoritative databases and APIs; the only place of proof
``heal``     repair what was proved          the only method that writes

A notification is an untrusted hint: a :class:`Trigger` takes a :class:`Key` out of its payload, and nothing else of the
payload ever reaches a handler. Audit mode means that ``heal`` is never called.

This module may import nothing of ``consumer``.
"""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Self, TypeVar

from oslo_config import cfg

T = TypeVar("T")

#: What evidence, before and after may hold: what ``json.dumps`` takes.
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What to look at: the kind of an object and its identity, written ``kind:id``.

    :param kind: ``instance``, ``host``, ``aggregate``, ``cell``, ``consumer``, ``amphora`` ...; no colon in it
    :param id: a UUID or a name; any character, 255 at most
    """

    kind: str
    id: str

    MAX_ID: ClassVar[int] = 255

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``kind:id``.

        :raises ValueError: when it is not of this form
        """
        kind, colon, identity = text.partition(":")
        if not (kind and colon and identity):
            raise ValueError(f"{text!r} is not a key; write kind:id, for example instance:{uuid.UUID(int=0)}")
        if len(identity) > cls.MAX_ID:
            raise ValueError(f"the key {text[:40]!r}... is longer than {cls.MAX_ID} characters")
        return cls(kind, identity)


@dataclass(frozen=True, slots=True)
class Event:
    """One notification, decoded and normalised: the versioned and the legacy format of a fact give the same event.

    :param type: the versioned name, e.g. ``instance.delete.end``, also when the legacy one came
    :param payload: plain nested dicts and lists; versioned objects are unwrapped to their data
    :param id: the notification's ``message_id``, for tracing only
    :param publisher: ``nova-compute:host`` or ``compute.host``; never used as a key
    :param sent_at: when the publisher says it was sent (UTC, aware); None when it does not say
    :param broker: the name of the broker it came from
    :param format: how it was written: ``versioned`` or ``unversioned``; empty where the publisher knows one format only.
        For those who run the publishers; to a handler both are the same
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
    """An event that hints at this handler's drift.

    :param event: the normalised event type
    :param key: takes the key out of the event; None when this event is not for the handler (a service that is not
        nova-compute). It gets untrusted input: it may raise anything, which makes the notification a dead event
    :param after: seconds to wait before the first look, where the event is sent before its sender has finished
    """

    event: str
    key: Callable[[Event], Key | None]
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A proven drift of one key.

    :param problem: a slug that names the kind of drift, stable over releases: ``host-unmapped``
    :param summary: one sentence for a person: what is wrong
    :param evidence: what proves it: ids, generations, states, old values; what survives a round trip through JSON. The
        heal compares with it before it writes, and two looks count as the same finding only when problem and evidence are
        equal; so no clock readings in it
    :param healable: whether ``heal`` may be called for it
    :param refusal: why not, when it is not
    """

    key: Key
    problem: str
    summary: str
    evidence: Json = field(default_factory=dict)
    healable: bool = True
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Healed:
    """What a heal changed, for the history.

    :param action: one sentence, past tense: ``mapped host compute-7 to cell cell1``
    :param before: the values that were there
    :param after: the values that are there now
    :param undo: how an operator takes it back, as a command or statement where there is one
    :param complete: False when it was cut short, so that the key has to be looked at again
    """

    action: str
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)
    undo: str = ""
    complete: bool = True


class HandlerError(Exception):
    """Root of what a handler may raise on purpose; anything else is a bug and is retried, then parked."""


class InFlight(HandlerError):
    """Nova or Octavia is working on the object; its state proves nothing now.

    :param after: seconds until another look makes sense
    """

    def __init__(self, reason: str, after: float = 10.0) -> None:
        super().__init__(reason)
        self.after = after


class Unavailable(HandlerError):
    """A database or API that the proof needs did not answer. Unknown never means absent: nothing is changed.

    :param dependency: what did not answer: ``placement``, ``nova_api``, ``cell:<name>``
    """

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency}: {reason}")
        self.dependency = dependency


class Conflict(HandlerError):
    """The world changed between the proof and the write (a generation, an old value): look again from the start."""


class Refused(HandlerError):
    """Unsafe or ambiguous: report, never heal."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A message broker on which notifications arrive.

    :param name: how logs and metrics call it: ``nova``, ``cell:cell1``, ``octavia``
    :param transport_url: an oslo.messaging URL, with its secrets: never log it
    :param exchanges: the topic exchanges whose services publish there; needed to bind a queue of our own
    :param options: names and values of ``[oslo_messaging_rabbit]`` with which its services reach it: TLS and its files
    """

    name: str
    transport_url: str = field(repr=False)
    exchanges: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing about the deployment that was looked at, for ``stackmend check``.

    :param subject: what was looked at: ``nova.conf: notifications``
    :param verdict: ``ok``; ``warning``: it works, and could be better or safer; ``failure``: something will not work
    :param text: what was found and, unless it is well, the line to write or the statement to run; no secrets
    """

    subject: str
    verdict: str
    text: str = ""


#: Looks at what a deployment needs beyond the options' own rules (entry point ``stackmend.checks``). It is given the modes
#: of the handlers that are not off, by name; it reads only, and says what it cannot look at instead of raising.
Check = Callable[["Resources", Mapping[str, str]], Iterable[Checked]]


class Resources:
    """What the handlers of one process share (engines, sessions, clients), each made once, on first use.

    :param conf: the loaded configuration, with every handler's options registered
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.conf = conf
        self._made: dict[Callable[..., Any], Any] = {}
        self._lock = threading.RLock()

    def get(self, make: Callable[[Resources], T]) -> T:
        """Return ``make(self)``, called at most once for this object; ``make`` is usually a class's ``from_resources``."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self)
            made: T = self._made[make]
            return made

    def limits(self) -> Iterator[str]:
        """Ask whatever has ``limits`` what keeps handlers from healing, or from looking; yield its sentences.

        A database whose schema is not known here, or lacks a table, says so. What does not answer says nothing: the first
        look will.
        """
        with self._lock:
            made = list(self._made.values())
        for thing in made:
            limits = getattr(thing, "limits", None)
            if callable(limits):
                with suppress(HandlerError):
                    yield from limits()

    def close(self) -> None:
        """Close whatever has a ``close``, last made first."""
        with self._lock:
            for thing in reversed(list(self._made.values())):
                close = getattr(thing, "close", None)
                if callable(close):
                    close()
            self._made.clear()


class Part(ABC):
    """What an entry point names: a part of the work that the machine makes out of the configuration."""

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Options of this part and of what it uses, by group; the same option may come from several parts."""
        return {}

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Tell whether the configuration speaks of the service that this is about.

        What does not apply is left out unless it is asked for by name; then what is missing is said.

        :param conf: with these options registered
        """
        return True

    @classmethod
    @abstractmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it.

        :raises cfg.Error: when an option is missing or wrong; the message names option, file and what to write
        """


class Inventory(Part):
    """What the work keeps in the cloud for an operator, such as preserved amphorae: listed, shown, given away, deleted."""

    #: how the command line calls it: ``amphora preserved``
    name: ClassVar[str]
    #: one line for help texts and the page
    title: ClassVar[str]
    #: which values of an item make the columns of a table; the first one is its id
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def items(self) -> Sequence[Json]:
        """Return everything that is kept; each item has a value for every column, ready for a table.

        :raises Unavailable: when that cannot be told
        """

    @abstractmethod
    def show(self, identity: str) -> Json:
        """Return all that is known of one item, what an operator needs to look inside it.

        :raises LookupError: when there is none
        :raises Unavailable: when that cannot be told
        """

    def release(self, identity: str) -> Healed:
        """Hand an item over to the operator: it stays in the cloud, and is no longer counted or touched.

        :raises LookupError: when there is none
        :raises Unavailable, Refused: see there
        """
        raise Refused(f"{self.title}: nothing of it can be released")

    def delete(self, identity: str) -> Healed:
        """Delete an item, wholly.

        :raises LookupError: when there is none
        :raises Unavailable, Refused: see there
        """
        raise Refused(f"{self.title}: nothing of it can be deleted")


class Handler(Part):
    """One kind of drift. Instances are shared by threads: no state outside what the constructor sets.

    Class attributes, all but ``triggers`` mandatory in a subclass:
    """

    #: the task's name, as in the specification: ``discover_hosts``; prefix of its options
    name: ClassVar[str]
    #: one line for ``stackmend handler list`` and the options' help
    title: ClassVar[str]
    #: option group that holds ``<name>_interval``, ``<name>_mode``, ``<name>_window``: ``audit`` or ``housekeeping``
    group: ClassVar[str]
    #: kinds of keys it takes
    kinds: ClassVar[tuple[str, ...]]
    #: events that hint at this drift
    triggers: ClassVar[tuple[Trigger, ...]] = ()
    #: seconds: a finding must be seen twice, unchanged, this far apart (0: once is proof)
    confirm_after: ClassVar[float] = 0.0
    #: ``off``, ``audit`` or ``heal``, until the operator says otherwise
    default_mode: ClassVar[str] = "audit"
    #: seconds between two sweeps, until the operator says otherwise
    default_interval: ClassVar[int] = 3600
    #: an integer option of its group that holds its interval, where a specification named one for several tasks; then it
    #: has no ``<name>_interval``, and the handler declares that option itself
    interval_option: ClassVar[str] = ""
    #: heals in any hour, until the operator says otherwise; None: as ``[engine] heals_per_hour`` says. For a handler that heals
    #: one object in many steps, each of which counts
    default_heals_per_hour: ClassVar[int | None] = None
    #: dependencies that every look needs: when one is Unavailable, the whole handler waits for it, not each key by itself
    requires: ClassVar[tuple[str, ...]] = ()
    #: what the task costs and which interval suits it, for the options' help
    cost: ClassVar[str] = ""

    @abstractmethod
    def inspect(self, key: Key) -> Iterable[Finding]:
        """Prove the drift of one key; reads only. No finding means that nothing is wrong.

        :raises InFlight, Unavailable, Refused: see there; findings that were yielded before do not count
        """

    @abstractmethod
    def sweep(self) -> Iterator[Key]:
        """Yield every key that looks wrong; reads sets, never object by object; reads only.

        :raises Unavailable: when a listing failed or is empty where that cannot be right. Keys yielded before stand
        """

    @abstractmethod
    def population(self) -> int:
        """How many objects a sweep looks at, roughly; the measure of "too many are wrong to believe it"."""

    @abstractmethod
    def heal(self, finding: Finding) -> Healed:
        """Repair a finding; idempotent, and compare-and-set on its evidence.

        :raises Conflict: when the world is no longer what the evidence says; nothing was written
        :raises InFlight, Unavailable, Refused: see there
        """

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Heal in steps, each whole by itself, and begin none when ``go_on`` says no; for a heal that may take long.

        A heal that was stopped says that it is not complete. One of a single step needs none of this.

        :param go_on: asked before each step: whether the task's window is still open
        :raises: as :meth:`heal`; Conflict also when not even one step was done
        """
        return self.heal(finding)
