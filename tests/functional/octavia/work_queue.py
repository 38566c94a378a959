"""Octavia's queue, as a test says it is."""

from __future__ import annotations

from handlers.base import QueueDepth
from handlers.octavia.work_queue import WorkQueue


class Queue(WorkQueue):
    """Idle, unless it has an error to raise.

    :param refusal: why nothing can be proved by it
    """

    def __init__(self, refusal: str = "") -> None:
        super().__init__(lambda: QueueDepth(0, 1), refusal)
        self.error: Exception | None = None

    def prove_idle(self) -> None:
        if self.error:
            raise self.error
