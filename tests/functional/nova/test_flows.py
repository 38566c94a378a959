"""No handler heals in the middle of a flow of Nova, however slow the flow is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer import plugins
from handlers.base import Finding, Handler, InFlight, Key, Mode
from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.flows import FLOWS, Flow
from tests.functional.nova.opened import opened

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", c="cell2")

#: longer than every settle time, and shorter than the shortest time after which a flow counts as stuck
SLOW = {"minutes": 30}


@pytest.fixture
def handlers(cloud: NovaSimulation, tmp_path: Path) -> Iterator[list[Handler]]:
    """Every handler of Nova, with its options at their defaults."""
    kinds = [kind for kind in plugins.handlers() if kind.service == "nova" and kind.default_mode != Mode.OFF]
    with opened(cloud, tmp_path, kinds) as resources:
        yield [kind.from_resources(resources) for kind in kinds]


def keys_about(cloud: NovaSimulation) -> list[Key]:
    """Return a key of each kind for every object of the flow."""
    c = tables.instance_mappings.c
    with cloud.api.connect() as connection:
        servers = list(connection.scalars(sa.select(c.instance_uuid)))
    moves: set[str] = set()
    for engine in cloud.cells.values():
        with engine.connect() as connection:
            moves.update(connection.scalars(sa.select(tables.migrations.c.uuid)))
    keys = [Key(kind, server) for server in servers for kind in ("instance", "consumer")]
    keys += [Key("consumer", move) for move in sorted(moves)]
    keys += [Key("host", host) for host in "abc"]
    return [*keys, Key("mappings", "1-99")]


def healable(cloud: NovaSimulation, handlers: list[Handler]) -> Iterator[tuple[str, Finding]]:
    for handler in handlers:
        for key in dict.fromkeys([*handler.sweep(), *(key for key in keys_about(cloud) if key.kind in handler.kinds)]):
            try:
                findings = list(handler.inspect(key))
            except InFlight:
                continue
            yield from ((handler.name, finding) for finding in findings if finding.healable)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: str(flow.__name__))
def test_no_step_of_a_flow_is_healed(cloud: NovaSimulation, handlers: list[Handler], flow: Flow) -> None:
    steps = flow(cloud)
    wrong: list[tuple[str, str, str]] = []
    seen = 0
    while True:
        with cloud.ago(**SLOW):
            step = next(steps, None)
        if step is None:
            break
        seen += 1
        wrong += [(step, name, finding.problem) for name, finding in healable(cloud, handlers)]
    assert seen
    assert wrong == []
