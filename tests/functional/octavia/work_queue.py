"""Doubles of Octavia's work queue and jobboard."""

from __future__ import annotations

from handlers.base import QueueDepth
from handlers.octavia.jobboard.board import Board, Job, UnreadableBoard
from handlers.octavia.work_queue import WorkQueue


class Postings(Board):
    """A jobboard with these jobs."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = list(jobs)
        #: why it proves nothing
        self.reason = ""

    def jobs(self) -> list[Job]:
        if self.reason:
            raise UnreadableBoard(self.reason)
        return self._jobs


def job(name: str = "get_update_load_balancer_flow-1", *identities: str) -> Job:
    """Return a job that names these objects."""
    return Job(name, " ".join(identities).encode(), bool(identities))


class Queue(WorkQueue):
    """Empty and consumed, unless a test sets an error or waiting requests.

    :param refusal: the reason why it proves nothing
    :param threads: requests that one worker runs at the same time
    :param old_topic: the queue of the provider ``amphorav1``
    """

    def __init__(self, refusal: str = "", threads: int = 64, old_topic: str = "") -> None:
        super().__init__(self._answer, refusal, threads, old_topic)
        self.error: Exception | None = None
        #: numbers of waiting requests by queue
        self.waiting: dict[str, int] = {}

    def _answer(self, queue: str) -> QueueDepth:
        if self.error:
            raise self.error
        return QueueDepth(self.waiting.get(queue, 0), 1)
