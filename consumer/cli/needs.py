"""The facts about a command that its session needs before reading the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Audience(Enum):
    """The readers of a process's log."""

    COMMAND = "command"
    #: reads the result, which names unknown options and silent services itself
    CHECK = "check"
    #: reads the places that the configuration names
    DAEMON = "daemon"


@dataclass(frozen=True, slots=True)
class Needs:
    """The log and the handlers of one command.

    :param audience: decides places and level of the log
    :param handlers: the names of the handlers that the command uses; empty for all handlers
    """

    audience: Audience = Audience.COMMAND
    handlers: Sequence[str] = ()
