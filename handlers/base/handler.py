from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from handlers.base.drift import Finding, Healed, Key, Trigger
from handlers.base.errors import Conflict, Refused
from handlers.base.mode import Mode
from handlers.base.objects import ObjectKind
from handlers.base.plugins import Plugin
from handlers.base.rights import Rights, Roles

#: The tag, or the name of the metadata, by which an owner exempts an object from heals, where the operator permits it.
EXEMPT_TAG = "stackmend:exempt"


class Handler(Plugin):
    """One kind of drift, its proof and its heal. Threads share a handler, so only the constructor sets attributes."""

    #: the handler's name, as in the specification: ``discover_hosts``; the prefix of its options
    name: ClassVar[str]
    #: one line for ``stackmend handler list`` and the options' help
    title: ClassVar[str]
    #: the option group of ``<name>_interval``, ``<name>_mode``, ``<name>_window``: ``audit`` or ``housekeeping``
    group: ClassVar[str]
    #: the service whose drift it heals: ``nova``, ``octavia``. If there are enough workers, some of them work
    #: for this service alone
    service: ClassVar[str] = ""
    #: the kinds of its keys
    kinds: ClassVar[tuple[str, ...]]
    #: the problems that ``heal`` repairs; it refuses all others but ``witnessed_problems``. Each has a row in
    #: ``doc/source/safety.rst``
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
    #: the kinds of objects that each of its findings names in ``concerns``: ``host``, ``project``, ``cell``
    concerned_kinds: ClassVar[frozenset[str]] = frozenset()
    #: the kinds of objects that findings of its service name; ``exempt add`` checks a scope by them
    objects: ClassVar[tuple[ObjectKind, ...]] = ()
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
        """Prove the drift of one key, and write nothing. Yield no finding if the key has no drift.

        :raises InFlight, Unavailable, Refused: no proof is possible; stackmend then ignores the findings before the error
        """

    def inspect_suspect(self, key: Key, seen_for: float) -> Iterable[Finding]:
        """Inspect a suspect: a key with a hint from a sweep, and with no later hint but those of periodic events.

        Override this method to share facts among suspects. After any other event, shared facts can be older than the event.

        :param seen_for: seconds since an earlier inspection whose findings this one can confirm; infinite without findings
        """
        return self.inspect(key)

    def inspect_alone(self, key: Key) -> Iterable[Finding]:
        """Inspect a key right before its heal writes. Read all facts now, and for this key alone.

        Override this method if :meth:`inspect` reads more than a proof needs. These findings need no ``concerns``.
        """
        return self.inspect(key)

    def exempting_tag(self, finding: Finding) -> str:
        """Return a clause: which object of a finding has the tag :data:`EXEMPT_TAG`. Empty if none has a permitted tag.

        :raises Unavailable: the tags cannot be read
        """
        return ""

    @abstractmethod
    def sweep(self) -> Iterator[Key]:
        """Yield the keys that look wrong. Read many objects at a time.

        :raises Unavailable: a listing fails or is implausibly empty; the keys before the error are valid
        :raises Incomplete: at the end, if some dependencies did not answer; the sweep has listed all other keys
        """

    def sweep_rest(self, missing: frozenset[str]) -> Iterator[Key] | None:
        """Yield the keys that an incomplete sweep omitted because ``missing`` did not answer.

        Return None if only a whole sweep can list these keys.

        :param missing: dependencies that did not answer during the sweep, but answer now
        :raises Unavailable: as in :meth:`sweep`, from the call or from the iterator
        """
        return None

    def require(self, dependency: str) -> None:
        """Check cheaply that a dependency answers again. By default, check nothing.

        :raises Unavailable: the dependency still does not answer
        """

    @abstractmethod
    def population(self) -> int:
        """Return the approximate number of objects that a sweep covers; the breaker's limit depends on this number."""

    @abstractmethod
    def heal(self, finding: Finding) -> Healed:
        """Repair a finding, by idempotent writes that succeed only if the evidence still holds.

        :raises Conflict: the evidence no longer holds; the heal changed nothing
        :raises InFlight, Refused: as in :meth:`inspect`; the heal changed nothing
        :raises Unavailable, Unfinished: the heal may have written
        """

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Heal in steps, and begin no further step once ``go_on`` returns False. By default, there is one step.

        If ``go_on`` stopped the heal after a write, return ``complete=False``. stackmend then adds the reason to the history.

        :raises: as :meth:`heal`, and Conflict if ``go_on`` stopped the heal before its first write
        """
        return self.heal(finding)

    def prove_again(self, finding: Finding) -> Finding:
        """Inspect a finding's key again, right before the heal writes. Return the new finding, with equal evidence.

        :raises Refused: this handler does not heal the problem; or the finding is not healable, and no operator approved it
        :raises Conflict: the drift is gone, or the evidence has changed
        :raises InFlight, Unavailable: as in :meth:`inspect`
        """
        if not finding.healable and not finding.witnessed:
            raise Refused(finding.refusal)
        if finding.problem not in (self.healable_problems if finding.healable else self.witnessed_problems):
            raise Refused(f"{self.name} does not heal the problem {finding.problem}")
        for now in self.inspect_alone(finding.key):
            if finding.same_as(now):
                return now
        raise Conflict(f"{finding.key} is no longer as it was found")
