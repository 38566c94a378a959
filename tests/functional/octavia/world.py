"""A cloud of amphorae in memory, with Octavia's tables in SQLite, and the ways to let a handler work on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa

from handlers.base import Handler, InFlight, Key
from handlers.octavia import queries, rebuild, records, tables
from handlers.octavia.cloud_objects import PRESERVED, SINCE
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.failover.heartbeats import FEW, Listener
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings


def balancer_key(balancer: str) -> Key:
    return Key("load-balancer", balancer)


class House:
    """A driver, and the state of its world."""

    def __init__(self, database: OctaviaDatabase, settings: HousekeepingSettings) -> None:
        self.database = database
        self.driver = NoopDriver(settings, database)
        self.cloud, self.octavia = self.driver.cloud, self.driver.octavia
        self._beating: list[str] = []

    def reconfigure(self, **settings: object) -> None:
        """Go on with another configuration, in the same cloud."""
        changed = replace(self.driver.settings, **settings)  # type: ignore[arg-type]
        self.driver = NoopDriver(changed, self.database, self.cloud)

    def balancer(self, identity: str) -> records.LoadBalancer:
        found = self.database.run(partial(queries.load_balancer, identity=identity))
        assert found is not None
        return found

    def amphora(self, identity: str) -> records.Amphora:
        found = self.database.run(partial(queries.amphora, identity=identity))
        assert found is not None
        return found

    def fail(self, balancer: str) -> records.Amphora:
        """Stop the server of a load balancer's first amphora; return its row."""
        amphora = self.serving(balancer)[0]
        self.cloud.alter_server(amphora.compute_id or "", status="SHUTOFF")
        return amphora

    def handler(self, steps_within: float = 0.0) -> FailedAmphora:
        """Return a handler that has observed heartbeats for long enough.

        :param steps_within: seconds within which one heal takes further steps; 0 for one step
        """
        return FailedAmphora(self.driver, Listener(patience=0.0), steps_within)

    def silence(self, amphora: str, seconds: float = 55.0) -> None:
        """Let an amphora be silent, while others send heartbeats."""
        while len(self._beating) < FEW + 1:
            other = self.octavia.add_load_balancer("ACTIVE_STANDBY")
            self._beating += [row.id for row in self.serving(other)]
        for other in self._beating:
            self.octavia.heartbeat(other, silent=1)
        self.octavia.heartbeat(amphora, silent=seconds)

    def health_manager_replaces(self) -> list[str]:
        """Return the amphorae that Octavia's health manager would replace now, by its own rule.

        Source: ``get_stale_amphora`` in ``octavia/db/repositories.py``.
        """

        def stale(connection: sa.Connection) -> list[str]:
            now = connection.execute(sa.select(queries.NOW)).scalar_one()
            health, row = tables.amphora_health.c, tables.amphora.c
            query = (
                sa.select(row.id)
                .join(tables.amphora_health, health.amphora_id == row.id)
                .where(
                    health.busy.is_(False),
                    health.last_update < now - timedelta(seconds=self.driver.settings.heartbeat_timeout),
                    row.status.in_(records.SERVING),
                    row.compute_id.is_not(None),
                )
            )
            return list(connection.execute(query).scalars())

        return self.database.run(stale)

    def rows(self, balancer: str) -> list[records.Amphora]:
        """All amphora rows of a load balancer."""
        return self.database.run(partial(queries.amphorae_of, load_balancer=balancer))

    def make_mark_older(self, server: str, seconds: float) -> None:
        """Make a server's mark older."""
        marked = self.cloud.present(server)
        since = datetime.fromisoformat(marked.metadata[SINCE]) - timedelta(seconds=seconds)
        self.cloud.alter_server(server, metadata={**marked.metadata, SINCE: since.isoformat()})

    @staticmethod
    def once(action: Callable[[], object]) -> Callable[[], bool]:
        """Return a function that runs the action the first time that an inspection has to wait, and only then."""
        left = [action]

        def on_wait() -> bool:
            if not left:
                return False
            left.pop()()
            return True

        return on_wait

    def pass_time(self, seconds: float) -> None:
        """Make all rows of Octavia older, except heartbeats."""

        def age(connection: sa.Connection) -> None:
            for table in (tables.load_balancer, tables.amphora):
                for row in connection.execute(sa.select(table.c.id, table.c.created_at, table.c.updated_at)).all():
                    times = {
                        name: value - timedelta(seconds=seconds)
                        for name, value in (("created_at", row.created_at), ("updated_at", row.updated_at))
                        if value is not None
                    }
                    connection.execute(sa.update(table).where(table.c.id == row.id).values(**times))

        self.database.run(age)
        self.make_attempts_older(seconds)

    def make_attempts_older(self, seconds: float) -> None:
        """Make the versions of recorded failovers older, like the rows that they name."""
        for group in self.cloud.security_groups():
            for attempt in rebuild.recorded(group):
                older = replace(attempt, version=attempt.version - round(seconds * 1_000_000))
                self.cloud.untag_security_group(group.id, attempt.tag)
                self.cloud.tag_security_group(group.id, older.tag)

    def preserved(self) -> list[pool.Preserved]:
        """Return the preserved amphorae, and those that are marked for it."""
        return pool.read(self.driver)

    def assert_whole(self, balancer: str, amphorae: int = 1) -> None:
        """Assert that a load balancer is ACTIVE with all its amphorae, and that no DELETED row is on it."""
        assert self.balancer(balancer).status == "ACTIVE"
        serving = self.serving(balancer)
        assert [row.status for row in serving] == ["ALLOCATED"] * amphorae
        rows = self.database.run(partial(queries.amphorae_of, load_balancer=balancer))
        assert [row.id for row in rows if row.status == "DELETED"] == [], "a DELETED row is still attached"
        for row in serving:
            server = self.cloud.server(row.compute_id or "")
            assert server is not None
            assert server.status == "ACTIVE"
            assert PRESERVED not in server.tags
            assert row.vrrp_port_id in {port.id for port in self.cloud.ports() if port.device_id == server.id}

    def assert_no_leak(self) -> None:
        """Assert that every server, port and image is in use or preserved."""
        rows = self.database.run(queries.amphorae)
        preserved = self.preserved()
        servers = {row.compute_id for row in rows} | {one.server.id for one in preserved if one.server}
        assert {server.id for server in self.cloud.servers()} == servers
        assert all(one.complete for one in preserved)
        images = {one.image.id for one in preserved if one.image}
        shelved = {image.id for image in self.cloud.images() if image.name.endswith("-shelved")}
        assert {image.id for image in self.cloud.images()} == images | shelved
        used = {row.vrrp_port_id for row in rows}
        for row in rows:
            used.update(self.database.run(partial(queries.member_ports, amphora=row.id)))
        named = {port.id for port in self.driver.ports() if not port.device_id.startswith("lb-")}
        assert named == used
        assert not [row for row in rows if row.status == "ALLOCATED" and row.compute_id is None]

    def serving(self, balancer: str) -> list[records.Amphora]:
        """The amphorae of a load balancer that are not deleted."""
        rows = self.database.run(partial(queries.amphorae_of, load_balancer=balancer))
        return [row for row in rows if row.status != "DELETED"]


class Stuck(AssertionError):
    """A recovery waits for an event that does not come."""


def mend(house: House, handler: Handler, key: Key, on_wait: Callable[[], bool] = lambda: False) -> list[str]:
    """Inspect and heal, as the machine does, until no finding is healable; return the steps.

    :param on_wait: called when an inspection has to wait; returns whether a further inspection makes sense
    """
    steps: list[str] = []
    for _turn in range(60):
        try:
            findings = list(handler.inspect(key))
        except InFlight as waiting:
            if not on_wait():
                raise Stuck(f"{steps}: {waiting}") from waiting
            continue
        healable = [finding for finding in findings if finding.healable]
        if not healable:
            return steps
        handler.heal(healable[0])
        steps.append(healable[0].problem)
    raise Stuck(f"the recovery does not end: {steps}")
