"""stackmend's own way from the queue into the journal: source, router, inbox, all as in the service.

The handler is the only thing made for this: it wants the two types that are to be mapped to keys, whatever the real
handlers want by now. No worker runs; what looking and healing cost is not this benchmark's question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

from bench.ingest.job import EXCHANGE, PRIORITY, Job
from bench.ingest.meter import Meter
from bench.ingest.notifications import WANTED
from consumer.bus.source import Source
from consumer.conf.bus import BusSettings
from consumer.engine.inbox import Inbox
from consumer.engine.router import Router
from consumer.journal.database import Database, now, open_engine
from handlers.base import Broker, Event, Finding, Handler, Healed, Key, Resources, Trigger


def instance(event: Event) -> Key:
    """Take the instance out of an event."""
    return Key("instance", event.payload["uuid"])


class Instances(Handler):
    """Maps what is wanted to the instance's key, and is never asked to look at one."""

    name = "bench_ingest"
    title = "takes keys for the benchmark"
    group = "audit"
    kinds = ("instance",)
    triggers = tuple(Trigger(event, instance) for event in WANTED)
    default_interval = 3600

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make the handler."""
        return cls()

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Find nothing."""
        return ()

    def sweep(self) -> Iterator[Key]:
        """Find nothing."""
        return iter(())

    def population(self) -> int:
        """Look at nothing."""
        return 0

    def heal(self, finding: Finding) -> Healed:
        """Have nothing to heal."""
        raise NotImplementedError


def consume(job: Job, meter: Meter) -> None:
    """Drain the queue into the journal.

    :raises RuntimeError: when the source lost the broker on its way, or could not read a message
    """
    database = Database(open_engine(job.journal))
    database.transact(now)  # connecting is left out of the measurement, for the journal as for the broker
    router = Router([Instances])
    gaps: list[str] = []
    settings = BusSettings(topics=(job.topic,), priorities=(PRIORITY,))
    source = Source(
        broker=Broker("bench", job.transport_url, (EXCHANGE,)),
        settings=settings,
        wanted=router.wanted,
        deliver=Inbox(database, router, wake=lambda: None, keep_bytes=settings.dead_body_bytes).store,
        on_gap=lambda _broker, why: gaps.append(why),
    )
    source.run(meter.done)
    database.close()
    if gaps or source.dead:
        raise RuntimeError(f"{source.dead} messages could not be read; {'; '.join(gaps) or 'nothing was missed'}")
