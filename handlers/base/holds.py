from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from handlers.base.resources import Resources

#: The scope of a hold over every heal.
EVERYTHING = "all"


@dataclass(frozen=True, slots=True)
class Hold:
    """A reason outside stackmend why heals wait.

    :param scope: ``all``, or the heals of ``host:<name>`` or ``cell:<name>``
    """

    scope: str
    reason: str


#: Names the configured sources of a service's holds, each with a function that reads them (entry point ``stackmend.holds``).
#: Such a function raises when it cannot read: then every heal waits.
HoldSources = Callable[[Resources], Iterable[tuple[str, Callable[[], Iterable[Hold]]]]]
