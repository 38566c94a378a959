"""Carries out the steps that :mod:`handlers.octavia.failover.rules` chooses. Each step can run again.

Before stackmend detaches the networks of an amphora on a load balancer, Octavia's API must show that it would accept the
failover. Otherwise stackmend ends the heartbeat lease, so that Octavia's health manager replaces the amphora.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from handlers.base import Conflict, HandlerError, Healed, Refused
from handlers.octavia import changes, rebuild, records
from handlers.octavia.cloud_objects import (
    AMPHORA,
    DESCRIBABLE,
    LEASE,
    LOAD_BALANCER,
    METHOD,
    OWNER,
    PRESERVED,
    PRESERVED_PREFIX,
    REASON,
    SINCE,
    STATE,
    Server,
)
from handlers.octavia.drivers.base import Driver
from handlers.octavia.failover.steps import AnyReading, Deactivated, Replaced, Situation, Step, StepName
from handlers.octavia.failover.undo import undo_of
from handlers.octavia.housekeeping import AmphoraDriverError, DeleteFailed, UnavailableException
from handlers.octavia.preserved import pool
from handlers.octavia.preserved.pool import State
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.spares import pool as spares

LOG = logging.getLogger(__name__)

#: characters that Nova takes as a value of metadata
_MAX_VALUE = 255


class Actions:
    def __init__(self, driver: Driver, settings: HousekeepingSettings) -> None:
        self._driver = driver
        self._settings = settings
        #: whether Octavia's API has shown in this heal that it accepts the failover
        self._accepted = False
        either: dict[StepName, Callable[[AnyReading, Step], Healed]] = {
            StepName.UNMARK: self._unmark,
            StepName.DROP_IMAGE: self._drop_image,
            StepName.LABEL: self._label,
            StepName.SHELVE: self._shelve,
            StepName.STOP: self._stop,
        }
        cutting_off: dict[StepName, Callable[[Situation | Deactivated, Step], Healed]] = {
            **either,
            StepName.MARK: self._mark,
            StepName.UNPLUG: self._unplug,
            StepName.QUARANTINE: self._quarantine,
        }
        self._deactivated: Mapping[StepName, Callable[[Deactivated, Step], Healed]] = {
            **cutting_off,
            StepName.FORGET: self._forget,
        }
        self._recovering: Mapping[StepName, Callable[[Situation, Step], Healed]] = {
            **cutting_off,
            StepName.LEASE: self._lease,
            StepName.LET_GO: self._let_go,
            StepName.FAILOVER: self._replace,
            StepName.REBUILD: self._replace,
        }
        self._finishing: Mapping[StepName, Callable[[Replaced, Step], Healed]] = {
            **either,
            StepName.IMAGE: self._image,
            StepName.SEAL: self._seal,
            StepName.DROP_SERVER: self._drop_server,
            StepName.TRIM: self._trim,
            StepName.DETACH: self._detach,
        }

    def take(self, s: AnyReading, step: Step) -> Healed:
        """:raises Conflict: the cloud has changed since ``s`` was read
        :raises Refused: ``s`` is of a type that has no such step
        :raises InFlight: Octavia works on the load balancer
        :raises AmphoraDriverError: a call to the cloud fails
        """
        if isinstance(s, Situation) and step.name in self._recovering:
            return self._recovering[step.name](s, step)
        if isinstance(s, Deactivated) and step.name in self._deactivated:
            return self._deactivated[step.name](s, step)
        if isinstance(s, Replaced) and step.name in self._finishing:
            return self._finishing[step.name](s, step)
        raise Refused(f"{step.name} is no step for amphora {s.amphora.id}, which is {s.amphora.status}")

    def _undo(self, s: AnyReading, step: Step) -> str:
        return undo_of(s, step, self._driver.database.typed)

    # the health manager and the API

    def _lease(self, s: Situation, step: Step) -> Healed:
        self._require_failover(s)
        # a server without network sends no heartbeat, so its last one may be young when a lease has expired
        quiet = self._settings.quiet_after if s.connected else 0.0
        seconds = self._settings.preservation_lease
        at, leases = self._record_lease(s)
        lease = partial(changes.lease, amphora=s.amphora, seconds=seconds, quiet=quiet, at=at, leases=leases)
        self._driver.database.run(lease)
        return Healed(
            f"kept Octavia's health manager off amphora {s.amphora.id} for {self._settings.preservation_lease} s ({step.why})",
            undo=self._undo(s, step),
        )

    def _record_lease(self, s: Situation) -> tuple[datetime | None, tuple[str, ...]]:
        """Write the end of a new lease into the server's metadata, by which stackmend later recognises the lease.

        :return: the end of the lease, None without a heartbeat record; and the ends in the metadata, newest first, empty
            without a record or where Nova takes no metadata
        """
        server, at = _server(s), s.end_of_lease(self._settings.preservation_lease)
        if at is None or server.status not in DESCRIBABLE:
            return at, ()
        if (planned := self._planned_lease(s, at)) is not None:
            return planned, s.leases
        leases = (at.isoformat(), *s.leases[:1])
        self._driver.describe_server(server.id, {LEASE: " ".join(leases)})
        return at, leases

    def _planned_lease(self, s: Situation, at: datetime) -> datetime | None:
        """Return the newest end of a lease in the server's metadata, if the heartbeat record does not have this end yet.

        Return None without a heartbeat record, or when a third of that lease has passed.

        :param at: the end of a lease that begins now
        """
        try:
            planned = datetime.fromisoformat(s.leases[0])
            passed = at - planned
        except (IndexError, ValueError, TypeError):
            return None  # none, or a value that stackmend did not write
        written = s.health is None or planned == s.health.last_update
        return None if written or passed >= timedelta(seconds=self._settings.preservation_lease / 3) else planned

    def _end_lease(self, s: Situation) -> None:
        if s.leased:
            end = partial(changes.end_lease, amphora=s.amphora, silent=self._long_silent, leases=s.leases)
            self._driver.database.run(end)

    @property
    def _long_silent(self) -> float:
        """Seconds of silence after which Octavia's health manager replaces an amphora, even if clocks differ."""
        return 2 * self._settings.heartbeat_timeout

    def _require_failover(self, s: Situation) -> None:
        if self._accepted:
            return
        try:
            self._driver.require_failover(s.amphora.id)
        except AmphoraDriverError:
            self._end_lease(s)
            raise
        self._accepted = True

    def _replace(self, s: Situation, step: Step) -> Healed:
        ready = self._spares(s)
        try:
            with self._recorded(s):
                self._request(s, s.amphora)
        except AmphoraDriverError:
            if s.forgotten and s.server is not None and not s.server.locked:
                self._take_back(replace(s.amphora, status="ALLOCATED", compute_id=s.server.id))
            raise
        spare = spares.make_room(self._driver, ready)
        return Healed(
            f"asked Octavia to {_request_of(s)}: {step.why}{spares.room_text(spare)}",
            before={
                "status": s.amphora.status,
                "compute_id": s.amphora.compute_id,
                "load_balancer": s.amphora.load_balancer_id,
                "provisioning_status": s.balancer.status,
            },
            undo=self._undo(s, step),
        )

    def _recorded(self, s: Situation) -> AbstractContextManager[None]:
        return rebuild.recorded_attempt(self._driver, s.group, s.balancer, s.amphora.id)

    def _spares(self, s: Situation) -> list[Server]:
        has_spares = self._settings.spare_amphora_pool_size > 0
        return spares.spares_for(self._driver, s.amphora, s.attempts) if has_spares else []

    def _request(self, s: Situation, amphora: records.Amphora) -> None:
        """Ask Octavia to replace the amphora, or all amphorae if the load balancer is in ERROR.

        :param amphora: the amphora's row after the writes of this heal
        :raises AmphoraDriverError: Octavia refused or lost the request
        """
        if s.balancer.status != "ACTIVE":
            self._driver.failover_load_balancer(s.balancer.id)
            return
        self._driver.failover_amphora(amphora.id)
        if self._is_lost(amphora):
            raise UnavailableException(
                "octavia-broker", f"Octavia's API could not send the failover of amphora {amphora.id} to a worker"
            )

    def _is_lost(self, amphora: records.Amphora) -> bool:
        try:
            return self._driver.database.run(partial(changes.end_lost_request, amphora=amphora))
        except HandlerError as error:
            LOG.warning("nothing shows whether a worker has the failover of amphora %s: %s", amphora.id, error)
            return False

    def _let_go(self, s: Situation, step: Step) -> Healed:
        self._require_failover(s)
        amphora, ready = s.amphora, self._spares(s)
        with self._recorded(s):
            forgotten = self._driver.database.run(partial(changes.let_go, amphora=amphora, leases=s.leases))
            try:
                self._request(s, forgotten)
            except AmphoraDriverError:
                self._take_back(amphora, forgotten)
                raise
        spare = spares.make_room(self._driver, ready)
        return Healed(
            f"let Octavia forget server {amphora.compute_id} of amphora {amphora.id}, and asked it to {_request_of(s)} "
            f"({step.why}){spares.room_text(spare)}",
            before={"status": amphora.status, "compute_id": amphora.compute_id},
            after={"status": "ERROR", "compute_id": None},
            undo=self._undo(s, step),
        )

    def _take_back(self, amphora: records.Amphora, forgotten: records.Amphora | None = None) -> None:
        take_back = partial(changes.take_back, amphora=amphora, silent=self._long_silent, forgotten=forgotten)
        try:
            taken = self._driver.database.run(take_back)
        except HandlerError as error:
            LOG.warning("the row of amphora %s is not restored yet: %s", amphora.id, error)
            return
        if taken:
            LOG.warning("the failover of amphora %s was not accepted; its row names the server again", amphora.id)

    def _forget(self, s: Deactivated, step: Step) -> Healed:
        self._driver.database.run(partial(changes.forget_server, amphora=s.amphora))
        return Healed(
            f"set the row of amphora {s.amphora.id} to DELETED, without its server {s.amphora.compute_id}",
            before={"status": s.amphora.status, "compute_id": s.amphora.compute_id},
            after={"status": "DELETED", "compute_id": None},
            undo=self._undo(s, step),
        )

    # the server

    def _mark(self, s: Situation | Deactivated, step: Step) -> Healed:
        server = _server(s)
        self._driver.tag_server(server.id, PRESERVED)
        others = [one for one in pool.read(self._driver) if one.amphora != s.amphora.id]
        why = "its server was in ERROR" if server.name.startswith(PRESERVED_PREFIX) else step.why
        marks = {**self._marks(s, why), SINCE: pool.next_number(others, s.now)}
        if isinstance(s, Situation) and s.serves and (at := s.end_of_lease(self._settings.preservation_lease)):
            marks[LEASE] = at.isoformat()
        self._driver.describe_server(server.id, marks)
        return Healed(
            f"marked server {server.id} of amphora {s.amphora.id} for preservation ({why})",
            before={"tags": sorted(server.tags)},
            after=marks,
            undo=self._undo(s, step),
        )

    def _marks(self, s: Situation | Deactivated, why: str) -> dict[str, str]:
        return {
            AMPHORA: s.amphora.id,
            OWNER: self._settings.spare_owner,
            LOAD_BALANCER: s.amphora.load_balancer_id or "",
            REASON: why[:_MAX_VALUE],
            METHOD: self._settings.preservation_method if _server(s).image is not None else "unplug",
            STATE: State.PRESERVING,
        }

    def _unmark(self, s: AnyReading, step: Step) -> Healed:
        server = _server(s)
        if isinstance(s, Situation):
            self._end_lease(s)
        # the number first: a tag without a number is a server that is about to get one
        self._driver.describe_server(server.id, {SINCE: "", STATE: "", AMPHORA: "", LEASE: ""})
        self._driver.untag_server(server.id, PRESERVED)
        return Healed(
            f"removed the mark of server {server.id} of amphora {s.amphora.id}: {step.why or step.summary}",
            before={name: server.metadata.get(name, "") for name in (SINCE, STATE, AMPHORA)},
            undo=self._undo(s, step),
        )

    def _stop(self, s: AnyReading, step: Step) -> Healed:
        if isinstance(s, Situation):
            self._require_failover(s)
        server = _server(s)
        self._driver.stop_server(server.id)
        if not s.marked:
            # Nova changes only the name of a server in ERROR; the name records that a stop was tried
            self._driver.describe_server(server.id, {}, f"{PRESERVED_PREFIX}{s.amphora.id}")
        return Healed(
            f"asked Nova to stop server {server.id} of amphora {s.amphora.id} ({step.why})",
            before={"status": server.status},
            undo=self._undo(s, step),
        )

    def _unplug(self, s: Situation | Deactivated, step: Step) -> Healed:
        if isinstance(s, Situation):
            self._require_failover(s)
        server = _server(s)
        for port in s.connected:
            self._driver.detach_port(server.id, port.id)
        self._driver.describe_server(server.id, {STATE: State.DETACHING})
        return Healed(
            f"asked Nova to detach {len(s.connected)} ports of server {server.id} of amphora {s.amphora.id}",
            before={"ports": [port.id for port in s.connected]},
            undo=self._undo(s, step),
        )

    def _quarantine(self, s: Situation | Deactivated, step: Step) -> Healed:
        if isinstance(s, Situation):
            self._require_failover(s)
        for port in s.connected:
            self._driver.disable_port(port)
        return Healed(
            f"set {len(s.connected)} ports of server {_server(s).id} of amphora {s.amphora.id} down",
            before={"ports": [port.id for port in s.connected]},
            undo=self._undo(s, step),
        )

    def _label(self, s: AnyReading, step: Step) -> Healed:
        server, name = _server(s), f"{PRESERVED_PREFIX}{s.amphora.id}"
        self._driver.lock_server(server.id, f"preserved by stackmend: amphora {s.amphora.id} failed")
        self._driver.describe_server(server.id, {STATE: State.PRESERVED}, name)
        return Healed(
            f"preserved server {server.id} of amphora {s.amphora.id}",
            before={"name": server.name, "locked": server.locked},
            after={"name": name, "locked": True},
            undo=self._undo(s, step),
        )

    def _shelve(self, s: AnyReading, step: Step) -> Healed:
        server = _server(s)
        self._driver.shelve_server(server.id)
        return Healed(
            f"asked Nova to shelve preserved server {server.id}, which occupies host {server.host} for its server group",
            before={"status": server.status, "host": server.host, "groups": list(server.groups)},
            undo=self._undo(s, step),
        )

    # the image

    def _image(self, s: Replaced, step: Step) -> Healed:
        server = _server(s)
        marks = (AMPHORA, OWNER, LOAD_BALANCER, REASON, METHOD, SINCE)
        properties = {**{name: server.metadata.get(name, "") for name in marks}, STATE: State.PRESERVED}
        image = self._driver.create_image(server.id, f"{PRESERVED_PREFIX}{s.amphora.id}", properties)
        return Healed(
            f"asked Nova for an image of server {server.id} of amphora {s.amphora.id}",
            after={"image": image},
            undo=f"openstack image delete {image}",
        )

    def _seal(self, s: Replaced, step: Step) -> Healed:
        for image in step.objects:
            self._driver.seal_image(image)
        return Healed(
            f"protected image {', '.join(step.objects)} of amphora {s.amphora.id}, which is complete",
            before={"protected": False},
            after={"protected": True, "visibility": "private"},
            undo=self._undo(s, step),
        )

    def _drop_image(self, s: AnyReading, step: Step) -> Healed:
        for image in step.objects:
            try:
                self._driver.delete_image(image)
            except DeleteFailed as error:
                raise Conflict(str(error)) from error
        return Healed(
            f"deleted images {', '.join(step.objects)} of amphora {s.amphora.id}: {step.summary}",
            undo=self._undo(s, step),
        )

    def _drop_server(self, s: Replaced, step: Step) -> Healed:
        image, server = s.sealed, _server(s)
        if image is None:
            raise Conflict(f"the image of amphora {s.amphora.id} is no longer protected")
        self._driver.delete_server(server.id)
        return Healed(
            f"deleted server {server.id} of amphora {s.amphora.id}, which is preserved as image {image.id}",
            before={"server": server.id, "image": image.id},
            undo=self._undo(s, step),
        )

    # the end

    def _trim(self, s: Replaced, step: Step) -> Healed:
        oldest = next((one for one in s.others if one.amphora in step.objects), None)
        if oldest is None:
            raise Conflict(f"amphora {', '.join(step.objects)} is no longer preserved")
        pool.discard(self._driver, oldest)
        return Healed(
            f"deleted preserved amphora {oldest.amphora}, the oldest: amphora {s.amphora.id} took its place",
            before={
                "server": oldest.server.id if oldest.server else None,
                "image": oldest.image.id if oldest.image else None,
                "since": oldest.since,
            },
            undo=self._undo(s, step),
        )

    def _detach(self, s: Replaced, step: Step) -> Healed:
        if s.balancer is None:
            raise Conflict(f"amphora {s.amphora.id} is no longer on a load balancer")
        balancer = s.balancer.id
        for amphora in step.objects:
            self._driver.database.run(partial(changes.detach_deleted, amphora=amphora, load_balancer=balancer))
        return Healed(
            f"took the rows of deleted amphorae off load balancer {balancer}, whose next update would fail because of them: "
            + ", ".join(step.objects),
            before={"load_balancer_id": balancer},
            after={"load_balancer_id": None},
            undo=self._undo(s, step),
        )


def _server(s: AnyReading) -> Server:
    if s.server is None:
        raise Conflict(f"amphora {s.amphora.id} has no server any more")
    return s.server


def _request_of(s: Situation) -> str:
    if s.balancer.status == "ACTIVE":
        return f"replace amphora {s.amphora.id}"
    return f"replace all amphorae of load balancer {s.balancer.id}, which is in ERROR"
