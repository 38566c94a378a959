"""Lets a handler heal its world, and kills it at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from handlers.base import Conflict, Finding, Handler, Healed, InFlight, Unavailable
from handlers.octavia import tables
from handlers.octavia.cloud_objects import Image, Port, Server
from handlers.octavia.simulation.controller import CHILDREN
from tests.functional.octavia.world import House

LONG = 86_400.0


class Killed(BaseException):
    """The process ends here."""


def findings(handler: Handler) -> list[Finding]:
    """Return the findings of a sweep and the inspections of its keys."""
    found: list[Finding] = []
    for key in list(handler.sweep()):
        with suppress(InFlight):
            found += handler.inspect(key)
    return found


def problems(handler: Handler) -> list[str]:
    """Return the problems that are found."""
    return sorted(finding.problem for finding in findings(handler))


def mend(handler: Handler, turns: int = 20) -> list[Healed]:
    """Sweep and heal until nothing is left that may be healed."""
    healed: list[Healed] = []
    for _turn in range(turns):
        todo = [finding for finding in findings(handler) if finding.healable]
        if not todo:
            return healed
        with suppress(InFlight, Unavailable, Conflict):
            healed.append(handler.heal(todo[0]))
    raise AssertionError(f"the heals do not end: {healed}")


@contextmanager
def stepping(house: House, moments: list[str], kill_at: int = -1) -> Iterator[None]:
    """Note what is done to cloud and database, before and after each call, and kill at one of these moments.

    :param moments: what was noted so far
    :param kill_at: number of the moment; -1 for none
    """
    weather, database, run = house.cloud.weather, house.database, house.database.run
    calls: list[str] = []

    def moment(name: str) -> None:
        moments.append(name)
        if len(moments) - 1 == kill_at:
            raise Killed(name)

    def before(name: str) -> None:
        moment(f"before {name}")
        calls.append(name)

    def after(name: str) -> None:
        calls.pop()
        moment(f"after {name}")

    def watched(work: Callable[[Any], Any]) -> Any:
        if calls:
            return run(work)  # Octavia's own, within a call of its API: that process lives
        moment("before database")
        answer = run(work)
        moment("after database")
        return answer

    weather.before, weather.after = before, after
    database.run = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        weather.before = weather.after = lambda name: None
        database.run = run  # type: ignore[method-assign]


def killed_everywhere(make: Callable[[], tuple[House, Handler]]) -> Iterator[tuple[House, Handler, str]]:
    """Make a world and let its heals be killed at each moment in turn; yield it for the next process to mend."""
    number = 0
    while True:
        house, handler = make()
        moments: list[str] = []
        heal = handler.heal

        def watched(finding: Finding) -> Healed:
            with stepping(house, moments, number):  # noqa: B023 - called in this turn only
                return heal(finding)  # noqa: B023

        handler.heal = watched  # type: ignore[method-assign]
        try:
            mend(handler)
        except Killed as killed:
            handler.heal = heal  # type: ignore[method-assign]
            yield house, handler, f"{number}: {killed}"
            number += 1
        else:
            assert number, "nothing was healed"
            return


def grow_older(house: House, seconds: float = LONG) -> None:
    """Let time have passed, for the cloud and for every row."""
    house.cloud.grow_older(seconds)
    house.make_attempts_older(seconds)
    back = timedelta(seconds=seconds)

    def shift(connection: Any) -> None:
        for table, columns in (
            (tables.amphora, ("created_at", "updated_at")),
            (tables.load_balancer, ("created_at", "updated_at")),
            *((table, ("created_at", "updated_at")) for table in CHILDREN.values()),
            (tables.amphora_health, ("last_update",)),
        ):
            (key,) = table.primary_key.columns
            for row in connection.execute(sa.select(table)).mappings().all():
                values = {name: row[name] - back for name in columns if row[name] is not None}
                if values:
                    connection.execute(sa.update(table).where(key == row[key.name]).values(values))

    house.database.run(shift)


def world(house: House) -> dict[str, list[str]]:
    """Return everything in the cloud, without ages and the records of attempts, to see that nothing else was touched."""
    with_rows = house.database.run(
        lambda connection: [
            f"{table.name} {dict(row)}"
            for table in tables.octavia.sorted_tables
            for row in connection.execute(sa.select(table)).mappings()
        ]
    )
    return {
        "rows": sorted(with_rows),
        "servers": sorted(_text(replace(server, age=0.0)) for server in house.cloud.servers()),
        "ports": sorted(_text(replace(port, age=0.0)) for port in house.cloud.ports()),
        "images": sorted(_text(replace(image, age=0.0)) for image in house.cloud.images()),
        "groups": sorted(group.id for group in (*house.cloud.server_groups(), *house.cloud.security_groups())),
    }


def _text(thing: Server | Port | Image) -> str:
    """Return every value of an object, with tags and marks in order."""
    values = {name: getattr(thing, name) for name in thing.__dataclass_fields__}
    return str({name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()})
