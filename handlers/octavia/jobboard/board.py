from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from handlers.base import Unavailable

#: seconds for which a server may be silent
TIMEOUT = 10.0


class UnreadableBoard(Exception):
    """Octavia's jobboard proves nothing; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the board.

    :param name: the flow's name and a number
    :param posting: the job's bytes on the board; never shown, because they can hold secrets
    :param named: whether the job names a load balancer or an amphora; only the deletion of an amphora names none
    """

    name: str
    posting: bytes = field(repr=False)
    named: bool = True

    @classmethod
    def of(cls, posting: bytes, decode: Callable[[bytes], Any]) -> Job:
        """:param decode: decodes a posting; raises ValueError or TypeError for a posting of another form"""
        try:
            read = decode(posting)
            return cls(str(read["name"]), posting, _names_an_object(read["details"]["store"]))
        except (ValueError, TypeError, LookupError, AttributeError):
            return cls("that stackmend cannot decode", posting, named=False)

    def concerns(self, identities: Collection[str]) -> bool:
        return any(identity.encode() in self.posting for identity in identities)


def _names_an_object(store: Any) -> bool:
    return any(isinstance(store.get(name), str) for name in ("loadbalancer_id", "amphora_id")) or bool(
        store.get("loadbalancer") or store.get("amphora")
    )


class Board(ABC):
    @abstractmethod
    def jobs(self) -> list[Job]:
        """Return the jobs that workers carry on or will carry on.

        :raises UnreadableBoard: the board proves nothing
        :raises Unavailable: the board does not answer
        """

    def job_of(self, identities: Collection[str]) -> str:
        """Return why a flow perhaps works on one of these objects; empty if the board proves that none does.

        :raises Unavailable: the board does not answer
        """
        try:
            jobs = self.jobs()
        except UnreadableBoard as error:
            return str(error)
        for job in jobs:
            if job.concerns(identities):
                return f"Octavia's jobboard has its job {job.name}, which a worker carries on: see the logs of octavia-worker"
        for job in jobs:
            if not job.named:
                return f"Octavia's jobboard has job {job.name}, which names no load balancer, so it may be its"
        return ""


def never_posted(name: str) -> UnreadableBoard:
    return UnreadableBoard(
        f"no job was ever posted to jobboard {name}: octavia.conf names another board, or its server lost its data; the next "
        "request to Octavia posts a job"
    )


def unavailable(error: Exception) -> Unavailable:
    return Unavailable("octavia-jobboard", f"it does not answer: {str(error) or type(error).__name__}")
