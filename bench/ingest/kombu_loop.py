"""The least that a consumer on kombu can do: take, look at nothing, acknowledge in batches. The floor to compare with."""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from bench.ingest.job import Job
from bench.ingest.meter import Meter

#: Messages per acknowledgement; twice as many are sent ahead. As stackmend does by default.
BATCH = 500


def consume(job: Job, meter: Meter) -> None:
    """Drain the queue."""

    def take(message: Any) -> None:
        if message.delivery_tag % BATCH == 0:
            message.ack(multiple=True)

    with Connection(job.url) as connection, connection.channel() as channel:
        channel.auto_decode = False
        queue = Queue(job.queue, no_declare=True)
        consumer = Consumer(channel, [queue], on_message=take, prefetch_count=2 * BATCH)
        with consumer:
            while not meter.done.is_set():
                connection.drain_events()
