"""Heals one leftover: removes it, preserves it, or asks Octavia for a failover of a stuck amphora."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from handlers.base import Conflict, Finding, Healed, InFlight, Refused
from handlers.octavia import changes, queries, rebuild, removal
from handlers.octavia.cloud_objects import Group
from handlers.octavia.drivers.base import Driver
from handlers.octavia.failover.actions import Actions
from handlers.octavia.failover.steps import Deactivated, Replaced, Step
from handlers.octavia.failover.undo import undo_of
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError
from handlers.octavia.leftovers import reading
from handlers.octavia.leftovers.preserving import next_preservation
from handlers.octavia.leftovers.rules import Problem
from handlers.octavia.reversal import NO_RETURN, restoring_row
from handlers.octavia.spares import pool

#: the undo of a deletion in Nova, Neutron or Glance; the history names the object
GONE = "none: nothing returns it, nothing uses it, and Octavia creates what it needs again"


class Disposal:
    def __init__(self, driver: Driver, grace: float) -> None:
        self._driver = driver
        self._database = driver.database
        self._grace = grace
        self._actions = Actions(driver, driver.settings)

    def undo(self, finding: Finding) -> str:
        """Return the undo of :meth:`remove`, as far as it is known before the removal.

        :raises InFlight: the step that preserves the amphora must wait
        :raises Conflict: this step is no longer the finding's step
        """
        match Problem(finding.problem):
            case Problem.HEALTH:
                return "none: a living amphora writes its record again"
            case Problem.ELIGIBLE:
                return undo_of(*self._next_preservation(finding), self._database.typed)
            case Problem.DEACTIVATED | Problem.WITHOUT_SERVER | Problem.STUCK:
                return NO_RETURN if finding.evidence["load_balancer"] else self._undo_of_removal(finding)
            case _:
                return GONE

    def _undo_of_removal(self, finding: Finding) -> str:
        server = finding.evidence["compute_id"]
        gone = "its ports" if finding.problem == Problem.WITHOUT_SERVER else f"server {server} and its ports"
        row = restoring_row(finding.key.id, finding.evidence["status"], self._database.typed)
        return f"none for {gone}; {row}"

    def remove(self, now: Finding) -> Healed:
        """:param now: the finding that the caller has just proved, with its undo"""
        match Problem(now.problem):
            case Problem.HEALTH:
                return self._forget_health(now)
            case Problem.ELIGIBLE:
                return self._preserve(now)
            case Problem.DEACTIVATED | Problem.WITHOUT_SERVER | Problem.STUCK:
                balancer = now.evidence["load_balancer"]
                return self._fail_over(now.key.id, balancer) if balancer else self._remove_amphora(now)
            case Problem.WITHOUT_ROW | Problem.ZOMBIE:
                return self._remove_server(now)
            case Problem.PORT | Problem.VIP_PORT:
                return self._remove_port(now)
            case Problem.SECURITY_GROUP:
                self._driver.delete_security_group(now.key.id)
                return _verified(now, self._driver.security_groups())
            case Problem.SERVER_GROUP:
                self._driver.delete_server_group(now.key.id)
                return _verified(now, self._driver.server_groups())
            case Problem.IMAGE:
                self._driver.delete_image(now.key.id)
                if self._driver.image(now.key.id) is not None:
                    raise DeleteFailed(f"{now.key} still exists, although its deletion was accepted")
                return Healed(f"deleted {now.key} ({now.evidence['name']})", before=dict(now.evidence), undo=now.undo)
            case Problem.BALANCER:
                raise Refused(f"each object of {now.key} is removed by itself")

    def _preserve(self, finding: Finding) -> Healed:
        read, step = self._next_preservation(finding)
        try:
            return replace(self._actions.take(read, step), complete=False)
        except NotFoundError as gone:
            raise Conflict(str(gone)) from gone

    def _next_preservation(self, finding: Finding) -> tuple[Deactivated | Replaced, Step]:
        row = self._database.run(partial(queries.amphora, identity=finding.key.id))
        found = next_preservation(self._driver, row) if row is not None else None
        if found is None or found[1].name != finding.evidence["step"]:
            raise Conflict(f"{finding.key} is no longer as it was found")
        return found

    def _forget_health(self, now: Finding) -> Healed:
        amphora = now.key.id
        if not self._database.run(partial(changes.forget_health, amphora=amphora, older_than=self._grace)):
            raise Conflict(f"the heartbeat record of amphora {amphora} has changed")
        return Healed(f"deleted the heartbeat record of amphora {amphora}", undo=now.undo)

    def _remove_amphora(self, finding: Finding) -> Healed:
        amphora, evidence = finding.key.id, finding.evidence
        try:
            Housekeeper(self._driver).remove_amphora([amphora])
        except NotFoundError as error:
            raise Conflict(str(error)) from error
        return Healed(
            f"removed amphora {amphora}: its server, its ports, and its row is DELETED",
            before=dict(evidence),
            after={"status": "DELETED"},
            undo=finding.undo,
        )

    def _fail_over(self, amphora: str, balancer: str) -> Healed:
        row, found = reading.amphorae(self._driver, amphora)[0], reading.balancer(self._driver, balancer)
        if found is None or not found.idle:
            raise InFlight(f"Octavia is working on load balancer {balancer}")
        rows = self._database.run(partial(queries.amphorae_of, load_balancer=balancer))
        remains = rebuild.require(self._driver, found, rows, found.age)
        ready = pool.spares_for(self._driver, row, remains.attempts)
        with rebuild.recorded_attempt(self._driver, remains.security_group, found, amphora):
            if found.status == "ACTIVE" and row.status == "PENDING_DELETE":
                self._driver.failover_amphora(amphora)
            else:
                self._driver.failover_load_balancer(balancer)
        spare = pool.make_room(self._driver, ready)
        return Healed(
            f"asked Octavia to replace amphora {amphora} of load balancer {balancer}, which was {found.status}"
            + pool.room_text(spare),
            undo=NO_RETURN,
        )

    def _remove_server(self, finding: Finding) -> Healed:
        server = self._driver.server(finding.key.id)
        if server is None:
            raise Conflict(f"server {finding.key.id} is gone")
        removal.remove_server(self._driver, server)
        return Healed(f"deleted server {server.id} ({server.name})", before=dict(finding.evidence), undo=finding.undo)

    def _remove_port(self, finding: Finding) -> Healed:
        port = self._driver.port(finding.key.id)
        if port is None or port.revision != finding.evidence["revision"]:
            raise Conflict(f"port {finding.key.id} has changed")
        removal.remove_port(self._driver, port)
        return Healed(f"deleted port {port.id} ({port.name})", before=dict(finding.evidence), undo=finding.undo)


def _verified(finding: Finding, left: Sequence[Group]) -> Healed:
    if any(group.id == finding.key.id for group in left):
        raise DeleteFailed(f"{finding.key} still exists, although its deletion was accepted")
    return Healed(
        f"deleted {finding.key} ({finding.evidence['name']})", before=dict(finding.evidence), undo=finding.undo
    )
