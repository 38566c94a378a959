"""Chooses the steps after an amphora's row is DELETED: Octavia has replaced the amphora, or it was on no load balancer.

The steps make and protect the image of a preserved server, complete its mark, and shelve it if it is in a server group. With
``preservation_scheme = cycle``, they delete the oldest amphora from a full pool of preserved amphorae. They detach DELETED
amphora rows from the load balancer.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers.octavia.cloud_objects import DESCRIBABLE, METHOD, SINCE, STATE, Image, Server
from handlers.octavia.failover.steps import (
    Decision,
    Nothing,
    Reading,
    Replaced,
    Report,
    Step,
    StepName,
    Wait,
)
from handlers.octavia.failover.table import Row, first
from handlers.octavia.preserved import pool
from handlers.octavia.preserved.pool import State
from handlers.octavia.settings import HousekeepingSettings

#: the states in which Nova detaches ports and makes images
WILLING = frozenset({"ACTIVE", "SHUTOFF", "PAUSED"})
#: the states of an image that may become active
_COMING = frozenset({"queued", "saving", "uploading", "importing"})


def marked_for(s: Reading) -> float:
    since = pool.parsed(s.since)
    return (s.now - since).total_seconds() if since is not None else 0.0


@dataclass(frozen=True, slots=True)
class End:
    s: Replaced
    settings: HousekeepingSettings

    @property
    def server(self) -> Server | None:
        """The marked server that the amphora's row no longer names; None without such a server."""
        return self.s.server if self.s.marked and self.s.amphora.compute_id is None else None

    @property
    def imaging(self) -> Imaging | None:
        """The image that must be made or completed, with its server; None when the image needs no step."""
        server = self.server
        if server is None or server.image is None or server.metadata.get(METHOD) != "snapshot":
            return None
        found = Imaging(self.s, self.settings, server)
        return None if found.done or _is_final(server) else found

    @property
    def closing(self) -> Step | Wait | None:
        """The step that completes the mark of a preserved server, or removes the mark of a server that is not preserved.

        ``Wait`` while Nova works on the server or refuses the step. None when no step is needed, or the image still needs a
        step.
        """
        server = self.s.server
        if server is None or not self.s.marked or self.imaging is not None:
            return None
        step = label_of(server)
        if self.server is None:
            step = Step(StepName.UNMARK, "remove the mark of a server that is not preserved", objects=(server.id,))
        if step is not None and (server.task_state or server.status not in DESCRIBABLE):
            return Wait(
                f"Nova changes no marks of server {server.id}: it is {server.status}, {server.task_state}", 30.0
            )
        return step

    @property
    def number(self) -> str:
        """The amphora's number in the pool; empty when it has none."""
        sealed = self.s.sealed
        return (self.s.since if self.s.marked else "") or (sealed.properties.get(SINCE, "") if sealed else "")

    @property
    def oldest(self) -> str:
        """The id of the preserved amphora to delete from a full pool; empty when stackmend deletes none.

        An amphora takes the place of an older one only: otherwise the oldest would displace newer ones.
        """
        limit = self.settings.maximum_preserved_amphora_count
        complete = [one for one in self.s.others if one.complete]
        numbered = [one for one in complete if one.since and not self._is_named(one.server)]
        full = self.settings.preservation_scheme == "cycle" and len(complete) >= limit > 0
        return numbered[0].amphora if full and numbered and numbered[0].since < self.number else ""

    def _is_named(self, server: Server | None) -> bool:
        return server is not None and server.id in self.s.named

    @property
    def attached(self) -> tuple[str, ...]:
        """The ids of amphorae whose DELETED rows stackmend must detach; empty while a flow works on the load balancer."""
        if self.s.balancer is None or not self.s.balancer.idle:
            return ()
        return tuple(sorted(self.s.rows))

    @property
    def shelving(self) -> Step | Wait | None:
        return shelving_of(self.server, self.s.marked) if self.server is not None else None


@dataclass(frozen=True, slots=True)
class Imaging:
    s: Replaced
    settings: HousekeepingSettings
    server: Server

    @property
    def late(self) -> bool:
        """Whether stackmend no longer waits for the image: the deadline has passed, or the host is down."""
        return marked_for(self.s) > self.settings.preservation_deadline or self.server.host_up is False

    @property
    def image(self) -> Image | None:
        """The image to complete: a protected image, otherwise an active image, otherwise any; None without an image."""
        rest = sorted(self.s.images, key=lambda found: (found.status != "active", found.id))
        return self.s.sealed or next(iter(rest), None)

    @property
    def extra(self) -> tuple[str, ...]:
        """The ids of surplus unprotected images. stackmend lost Nova's answer, and asked for an image again."""
        return tuple(found.id for found in self.s.images if found is not self.image and not found.protected)

    @property
    def complete(self) -> bool:
        return self.s.sealed is not None and self.s.sealed.status == "active"

    @property
    def withdrawn(self) -> bool:
        """Whether an administrator deactivated the image, or its protection stays although it is not active.

        Glance refuses to delete a protected image. A deactivated image is complete.
        """
        if self.image is None or self.complete:
            return False
        return self.status == "deactivated" or (self.image.protected and self.status != "active")

    @property
    def done(self) -> bool:
        """Whether the image needs no further step.

        The image is complete and its kept server is stopped, or Nova cannot do this in time.
        """
        if self.image is None:
            return self.late or self.server.status not in {*WILLING, "ERROR"}
        return self.complete and not self.extra and self.keeps_server and (self.server.status != "ACTIVE" or self.late)

    @property
    def keeps_server(self) -> bool:
        return self.settings.preservation_keeps == "server"

    def step(self, name: StepName, summary: str, *objects: str) -> Step:
        return Step(name, summary, objects=objects)

    @property
    def named(self) -> str:
        return self.image.id if self.image is not None else ""

    @property
    def status(self) -> str:
        return self.image.status if self.image is not None else ""


IMAGE: tuple[Row[Imaging], ...] = (
    Row(
        "more than one",
        lambda i: bool(i.extra),
        lambda i: i.step(StepName.DROP_IMAGE, "delete an image that was made twice", *i.extra),
    ),
    Row(
        "Nova works on the server",
        lambda i: i.image is None and i.server.task_state is not None,
        lambda i: Wait(f"Nova is working on server {i.server.id}: {i.server.task_state}"),
    ),
    Row(
        "the server is in ERROR",
        lambda i: i.image is None and i.server.status == "ERROR",
        lambda i: i.step(StepName.STOP, "stop its server, because Nova makes no image of it in ERROR", i.server.id),
    ),
    Row(
        "none",
        lambda i: i.image is None,
        lambda i: i.step(StepName.IMAGE, "make an image of its server", i.server.id),
    ),
    Row(
        "tagged",
        lambda i: i.image is not None and bool(i.image.tags),
        lambda i: Report(
            f"image {i.named} has tags, and Octavia may boot amphorae from it: remove the tags", "it failed"
        ),
    ),
    Row(
        "it may become active",
        lambda i: i.status in _COMING and not i.late,
        lambda i: Wait(f"image {i.named} is {i.status}", 3.0),
    ),
    Row(
        "an administrator decides",
        lambda i: i.withdrawn,
        lambda i: Report(
            f"image {i.named} is {i.status}, so its server {i.server.id} stays: run openstack image set --activate {i.named}, "
            f"or openstack image set --unprotected {i.named} and openstack image delete {i.named}",
            "it failed",
        ),
    ),
    Row(
        "it will not become active",
        lambda i: i.status != "active",
        lambda i: i.step(StepName.DROP_IMAGE, f"delete the image, which is {i.status}", i.named),
    ),
    Row(
        "not protected",
        lambda i: not i.complete,
        lambda i: i.step(StepName.SEAL, "protect the image, which is complete", i.named),
    ),
    Row(
        "complete, and the server stops",
        lambda i: i.keeps_server and i.server.task_state is not None,
        lambda i: Wait(f"Nova is working on server {i.server.id}: {i.server.task_state}"),
    ),
    Row(
        "complete, and the server stays",
        lambda i: i.keeps_server,
        lambda i: i.step(StepName.STOP, "stop its server, which is preserved beside its image", i.server.id),
    ),
    Row(
        "complete, and a row names the server",
        lambda i: i.server.id in i.s.named,
        lambda i: Report(
            f"its image {i.named} is complete, but the row of an amphora names its server {i.server.id}, which stays",
            "it failed",
        ),
    ),
    Row(
        "complete",
        lambda i: i.complete,
        lambda i: i.step(StepName.DROP_SERVER, "delete its server, whose image is preserved", i.server.id),
    ),
)

#: The load balancer waits neither for an image nor for a server whose marks Nova changes only later.
REPLACED: tuple[Row[End], ...] = (
    Row(
        "an image that is not wanted",
        lambda e: bool(e.s.unfinished) and e.imaging is None,
        lambda e: Step(StepName.DROP_IMAGE, "delete its image, which is not complete", objects=e.s.unfinished),
    ),
    Row("marks", lambda e: isinstance(e.closing, Step), lambda e: e.closing or Nothing()),
    Row(
        "the pool is over its limit",
        lambda e: bool(e.oldest),
        lambda e: Step(StepName.TRIM, "delete the oldest preserved amphora", objects=(e.oldest,)),
    ),
    Row(
        "DELETED rows",
        lambda e: bool(e.attached),
        lambda e: Step(StepName.DETACH, "take rows of deleted amphorae off the load balancer", objects=e.attached),
    ),
    Row(
        "an image",
        lambda e: e.imaging is not None,
        lambda e: (first(IMAGE, e.imaging) if e.imaging is not None else None) or Nothing(),
    ),
    Row("marks, later", lambda e: e.closing is not None, lambda e: e.closing or Nothing()),
    Row("a place in a server group", lambda e: e.shelving is not None, lambda e: e.shelving or Nothing()),
    Row("nothing", lambda _: True, lambda _: Nothing()),
)


def finish(s: Replaced, settings: HousekeepingSettings) -> Decision:
    return first(REPLACED, End(s, settings)) or Nothing()


def _is_final(server: Server) -> bool:
    return server.metadata.get(STATE) == State.PRESERVED


def label_of(server: Server) -> Step | None:
    if _is_final(server):
        return None
    return Step(StepName.LABEL, "rename and lock the preserved server", objects=(server.id,))


def shelving_of(server: Server, marked: bool) -> Step | Wait | None:
    """Return the step that shelves a preserved server, which frees its place in a server group.

    Return ``Wait`` while Nova works on the server; None when the step is not needed or not possible.
    """
    if not marked or not server.groups or server.host is None or server.host_up is False:
        return None
    if server.task_state:
        return Wait(f"Nova is working on server {server.id}: {server.task_state}", 5.0)
    if server.status not in {*DESCRIBABLE, "SHELVED"}:
        return None
    return Step(StepName.SHELVE, "shelve the server, which has a place in a server group", objects=(server.id,))
