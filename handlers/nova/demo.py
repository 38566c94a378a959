"""Nova's part of ``stackmend demo``: a cloud of two cells, and six scenes, which each make one drift.

Three operations in progress (a live migration, an unconfirmed resize, a boot) have allocations that look orphaned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.base import Key, Resources
from handlers.demo import Demo, Notification, Scene
from handlers.nova.simulation import NovaSimulation
from handlers.nova.verdicts import MOVED_SETTLE

#: Host to cell, when the demonstration begins.
HOSTS: Mapping[str, str] = {
    "compute-1": "cell1",
    "compute-2": "cell1",
    "compute-3": "cell1",
    "compute-4": "cell2",
    "compute-5": "cell2",
}
INSTANCES_PER_HOST = 2
#: How old the cloud is when the demonstration begins.
AGE_HOURS = 2.0
#: Handlers wait for a minute after a move. The scenes date their moves back, so that only so many seconds of it are left.
PATIENCE = 8.0
MOVED_AGO = MOVED_SETTLE - PATIENCE


@dataclass(frozen=True, slots=True)
class Bystander:
    """A consumer in Placement of an operation in progress. No heal may change the consumer's allocation."""

    doing: str
    consumer: str
    allocation: Mapping[str, Mapping[str, int]]


class NovaDemo(Demo):
    world = "Nova's databases with two cells, and a real Placement"
    handlers = frozenset({"discover_hosts", "sync_aggregates", "audit_allocations", "heal_allocations"})

    def __init__(self) -> None:
        self._running: NovaSimulation | None = None
        self._scenes: tuple[Scene, ...] = ()
        self._bystanders: tuple[Bystander, ...] = ()

    @property
    def cloud(self) -> NovaSimulation:
        if self._running is None:
            raise RuntimeError("the demonstration has not been started")
        return self._running

    def start(self, folder: Path) -> Mapping[str, Mapping[str, str]]:
        cloud = NovaSimulation(folder)
        self._running = cloud
        cloud.start()
        with cloud.ago(hours=AGE_HOURS):
            for host, cell in HOSTS.items():
                cloud.add_compute(host, cell)
                cloud.map_host(host)
            for host in HOSTS:
                for _ in range(INSTANCES_PER_HOST):
                    cloud.boot(host)
            self._bystanders = self._make_bystanders()
            self._scenes = (
                self._new_host("compute-6", "cell2"),
                self._membership_missing("compute-2"),
                self._allocation_missing("compute-3"),
                self._deleted("compute-2"),
                self._confirmed("compute-1", "compute-3"),
                self._silent_host("compute-7", "cell1"),
            )
        for host in HOSTS:
            cloud.heartbeat(host)
        cloud.take()
        return cloud.options()

    def join(self, resources: Resources) -> None:
        """Do nothing: :meth:`start` has made the scenes."""

    def scenes(self) -> Sequence[Scene]:
        return self._scenes

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def harm(self) -> str:
        """Return a message if the allocation of an operation in progress has changed; otherwise an empty text."""
        for bystander in self._bystanders:
            if self.cloud.allocation(bystander.consumer) != bystander.allocation:
                return f"harm: {bystander.doing} lost its allocation"
        return ""

    # hosts

    def _new_host(self, host: str, cell: str) -> Scene:
        def play() -> None:
            self.cloud.add_compute(host, cell)

        return Scene(
            f"a new compute host, {host}, starts in {cell}",
            "discover_hosts",
            Key("host", host),
            self._with_notifications(play),
            lambda: self._unmapped(host),
        )

    def _silent_host(self, host: str, cell: str) -> Scene:
        def play() -> Sequence[Notification]:
            self.cloud.add_compute(host, cell)
            self.cloud.take()
            return ()

        return Scene(
            f"{host} starts in {cell}, and its notification never arrives",
            "discover_hosts",
            Key("host", host),
            play,
            lambda: self._unmapped(host),
        )

    def _unmapped(self, host: str) -> str:
        return "" if host in self.cloud.host_mappings() else f"{host} is in no cell"

    # aggregates

    def _membership_missing(self, host: str) -> Scene:
        aggregate = self.cloud.create_aggregate("ssd")
        self.cloud.add_host_to_aggregate(aggregate, "compute-1")

        def play() -> None:
            self.cloud.add_host_to_aggregate(aggregate, host, placement_ok=False)

        return Scene(
            f"{host} is added to the aggregate ssd while Placement does not answer",
            "sync_aggregates",
            Key("aggregate", aggregate),
            self._with_notifications(play),
            lambda: self._membership(aggregate),
        )

    def _membership(self, aggregate: str) -> str:
        wanted = self.cloud.aggregate_hosts(aggregate)
        there = {node.host for node in self.cloud.nodes() if aggregate in self.cloud.provider_aggregates(node.uuid)}
        missing = [f"{host} is missing from the aggregate in Placement" for host in sorted(wanted - there)]
        left = [f"{host} is still in the aggregate in Placement" for host in sorted(there - wanted)]
        return "; ".join(missing + left)

    # allocations

    def _deleted(self, host: str) -> Scene:
        instance = self.cloud.boot(host)

        def play() -> None:
            self.cloud.delete(instance, leak_allocation=True)

        return Scene(
            "an instance is deleted while Placement does not answer",
            "audit_allocations",
            Key("consumer", instance),
            self._with_notifications(play),
            lambda: self._leftover(instance, "of a deleted instance"),
        )

    def _confirmed(self, source: str, destination: str) -> Scene:
        instance = self.cloud.boot(source)
        migration = self.cloud.start_migration(instance, destination)
        self.cloud.finish_migration(migration)

        def play() -> None:
            with self.cloud.ago(seconds=MOVED_AGO):
                self.cloud.confirm_migration(migration, leak_allocation=True)

        return Scene(
            f"nova-compute died {MOVED_AGO:.0f} s ago, while a migration was being confirmed",
            "audit_allocations",
            Key("consumer", instance),  # the notification names the instance; it leads to the migration
            self._with_notifications(play),
            lambda: self._leftover(migration, "of a confirmed migration"),
        )

    def _allocation_missing(self, host: str) -> Scene:
        instance = self.cloud.boot(host)
        self.cloud.shelve_offload(instance)

        def play() -> None:
            with self.cloud.ago(seconds=MOVED_AGO):
                self.cloud.unshelve(instance, host)
                self.cloud.hold(instance, {})

        return Scene(
            f"Placement loses the allocation of an instance that was unshelved on {host} {MOVED_AGO:.0f} s ago",
            "heal_allocations",
            Key("instance", instance),
            self._with_notifications(play),
            lambda: self._missing(instance),
        )

    def _missing(self, instance: str) -> str:
        host = self.cloud.instance(instance).host
        return f"an instance on {host} has no allocation" if host and not self.cloud.allocation(instance) else ""

    def _leftover(self, consumer: str, of: str) -> str:
        harm = self.harm()
        if harm:
            return harm
        held = self.cloud.allocation(consumer)
        hosts = {node.uuid: node.host for node in self.cloud.nodes()}
        return "; ".join(
            f"{','.join(f'{name}={amount}' for name, amount in sorted(amounts.items()))} {of} on {hosts[provider]}"
            for provider, amounts in sorted(held.items())
        )

    # all

    def _make_bystanders(self) -> tuple[Bystander, ...]:
        cloud = self.cloud
        moving = cloud.boot("compute-1")
        live = cloud.start_migration(moving, "compute-2", live=True)
        resized = cloud.boot("compute-4")
        cold = cloud.start_migration(resized, "compute-5")
        cloud.finish_migration(cold)
        building = cloud.request()
        cloud.claim(building, "compute-3")
        cloud.create_instance(building, "cell1")
        consumers = {
            moving: "a live migration (destination)",
            live: "a live migration (source)",
            resized: "an unconfirmed resize (destination)",
            cold: "an unconfirmed resize (source)",
            building: "a boot",
        }
        return tuple(Bystander(doing, consumer, cloud.allocation(consumer)) for consumer, doing in consumers.items())

    def _with_notifications(self, play: Callable[[], None]) -> Callable[[], Sequence[Notification]]:
        def played() -> Sequence[Notification]:
            self.cloud.take()
            play()
            return tuple(self.cloud.take())

        return played
