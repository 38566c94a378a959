"""A double of Octavia's work queue."""

from __future__ import annotations

from handlers.base import QueueDepth
from handlers.octavia.work_queue import WorkQueue


class Queue(WorkQueue):
    """Empty and consumed, unless a test sets an error.

    :param refusal: the reason why it proves nothing
    :param threads: requests that one worker runs at the same time
    """

    def __init__(self, refusal: str = "", threads: int = 64) -> None:
        super().__init__(self._answer, refusal, threads)
        self.error: Exception | None = None

    def _answer(self) -> QueueDepth:
        if self.error:
            raise self.error
        return QueueDepth(0, 1)
