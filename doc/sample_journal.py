"""Fills an empty journal with made-up entries of one day, for the pictures of the status page."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, insert

from consumer import __version__
from consumer.journal import asks, controls, exemptions
from consumer.journal.database import Database, now
from consumer.journal.history import Outcome
from consumer.journal.hours import HOUR
from consumer.journal.schema import history, replica, work
from handlers.base import Finding, Key

#: Handler, kind of its keys, problem, outcome, entries per hour, action or finding.
_DAY = (
    ("discover_hosts", "host", "host-unmapped", Outcome.HEALED, 1, "mapped host {} to cell cell1"),
    ("heal_allocations", "instance", "allocation-missing", Outcome.HEALED, 6, "put the allocation of instance {}"),
    ("heal_allocations", "instance", "allocation-missing", Outcome.CONFLICT, 1, "instance {} has no allocation"),
    ("heal_instance_mappings", "instance", "build-request-stale", Outcome.HEALED, 3, "deleted build request of {}"),
    ("audit_allocations", "consumer", "instance-deleted", Outcome.ASKED, 2, "deleted instance {} has an allocation"),
    ("audit_ports", "port", "port-of-deleted-instance", Outcome.FOUND, 4, "port {} belongs to a deleted instance"),
    ("failed_amphora", "amphora", "amphora-silent", Outcome.HEALED, 1, "failed over amphora {} and preserved it"),
    ("failed_amphora", "amphora", "amphora-silent", Outcome.FAILED, 1, "amphora {} sends no heartbeat"),
)
_UNDO = {
    "host-unmapped": "DELETE FROM host_mappings WHERE host = '{}' AND cell_id = 2",
    "allocation-missing": "openstack resource provider allocation delete {}",
}
HANDLERS = tuple(dict.fromkeys(handler for handler, *_rest in _DAY))


def fill(database: Database) -> None:
    """Write the entries, always the same ones; the last is some minutes old."""
    controls.ensure(database, HANDLERS)
    database.transact(_fill)
    exemptions.add(database, "host:compute-12", None, "carol", "kept as it is for the vendor of its disks")
    exemptions.add(database, "project:8b2f6f0a4c1d4e7f", _later(database, 6), "alice", "moves to another cell today")
    controls.pause(database, ["audit_ports"], "Neutron is upgraded until 14:00")
    for name in HANDLERS:
        controls.swept(database, name, _later(database, -0.1), 3, 4200)


def _later(database: Database, hours: float) -> float:
    return database.read(now) + hours * HOUR


def _fill(connection: Connection) -> None:
    clock, chance = now(connection), random.Random(3)
    connection.execute(insert(history), sorted(_entries(clock, chance), key=lambda row: row["at"]))
    for number in (4, 7):
        host = f"control-{number}"
        beat = {"version": __version__, "started_at": clock - 40 * HOUR, "beat_at": clock - number / 2}
        connection.execute(
            insert(replica).values(id=f"{host}-{3100 + number}-a1b2c{number}", host=host, pid=3100 + number, **beat)
        )
    for _number in range(2):
        consumer, provider = _id(chance), _id(chance)
        finding = Finding(
            Key("consumer", consumer),
            "instance-deleted",
            f"instance {consumer} was deleted, and Placement still has its allocation on compute-3",
            {"consumer_generation": 4},
            plan=f'PUT /allocations/{consumer}\n{{"allocations": {{}}, "consumer_generation": 4}}',
            undo=f"openstack resource provider allocation set --allocation rp={provider},VCPU=2,MEMORY_MB=4096 {consumer}",
        )
        asks.put(connection, "audit_allocations", finding, _id(chance), clock + (60 - 20 * _number) * HOUR, clock)
        connection.execute(
            insert(work).values(_row("audit_allocations", str(finding.key), clock, error="waits for approval"))
        )
    for _number in range(3):
        key = f"port:{_id(chance)}"
        connection.execute(insert(work).values(_row("audit_ports", key, clock, error="mode audit reports only")))
    parked = {"state": "parked", "attempts": 8, "error": "octavia_api: connection refused"}
    connection.execute(insert(work).values(_row("failed_amphora", f"amphora:{_id(chance)}", clock, **parked)))


def _entries(clock: float, chance: random.Random) -> Iterator[dict[str, Any]]:
    for back in range(23, -1, -1):
        busy = 4 if back in (9, 10) else 1
        for handler, kind, problem, outcome, rate, text in _DAY:
            for _entry in range(chance.randint(0, rate * busy)):
                at = clock - back * HOUR - chance.uniform(200, HOUR - 200)
                lag = chance.lognormvariate(0.4, 0.8) * busy
                yield _entry_of(handler, kind, problem, outcome, text, at, lag, chance)


def _entry_of(
    handler: str, kind: str, problem: str, outcome: Outcome, text: str, at: float, lag: float, chance: random.Random
) -> dict[str, Any]:
    name = f"compute-{chance.randint(1, 40)}" if kind == "host" else _id(chance)
    healed, failed = outcome is Outcome.HEALED, outcome in (Outcome.FAILED, Outcome.CONFLICT)
    return {
        "at": at,
        "handler": handler,
        "key": f"{kind}:{name}",
        "outcome": outcome.value,
        "problem": problem,
        "summary": text.format(name),
        "evidence": "{}",
        "action": text.format(name) if healed else None,
        "undo": _UNDO[problem].format(name) if healed and problem in _UNDO else None,
        "error": "the object changed meanwhile" if failed else None,
        "hint": "instance.update",
        "lag": lag if healed else None,
        "replica": "control-4",
    }


def _row(handler: str, key: str, clock: float, **values: Any) -> dict[str, Any]:
    times = {"not_before": clock, "first_hint_at": clock - 3 * HOUR, "last_hint_at": clock}
    return {"handler": handler, "key": key, "state": "reported", "priority": 10, "hint": "sweep", **times, **values}


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
