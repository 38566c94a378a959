"""stackmend as it is installed beside a controller with Octavia, for the tests of one handler or a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consumer import conf as configuration
from consumer import plugins
from consumer.bus import probe
from handlers.access import cloud_options
from handlers.base import Resources
from handlers.octavia import options as octavia_options
from handlers.octavia import settings
from tests.cloud import drift
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.program import Program

Options = Mapping[str, Mapping[str, object]]


def options(cloud: ControlPlane, *on: str, **housekeeping: object) -> dict[str, dict[str, object]]:
    """The configuration; healing are only the handlers ``on``, the others are off."""
    written: dict[str, dict[str, object]] = {
        "DEFAULT": {"default_log_levels": "handlers.octavia.housekeeping=DEBUG"},
        **cloud.account.options(octavia=True),
        "engine": {"poll_seconds": 0.2, "breaker_count": 100_000, "heals_per_hour": 0},
    }
    for handler in plugins.handlers():
        written.setdefault(handler.group, {})[f"{handler.name}_mode"] = "heal" if handler.name in on else "off"
    written.setdefault("housekeeping", {}).update(housekeeping)
    return written


def start(program: Program, cloud: ControlPlane) -> None:
    """Start the daemon, and wait until its first sweeps and the backlog of earlier tests are behind it."""
    program.start()
    wait_until(lambda: "runs as" in program.log.read_text(), 120, "the start of stackmend")
    wait_until(lambda: drift.undeclared_work(cloud) == 0, 180, "the backlog")


def healed(program: Program, key: str) -> list[dict[str, Any]]:
    """The history's heals of a key."""
    lines: list[dict[str, Any]] = program.json("history", "--key", key, "--outcome", "healed")
    return lines


def resources(program: Program) -> Resources:
    """What the handlers of this installation would share, for a test that asks a driver itself."""
    conf = configuration.load(plugins.handlers(), [str(program.conf)])
    for group, opts in ((cloud_options.GROUP, cloud_options.OPTIONS), (settings.GROUP, settings.OPTIONS)):
        conf.register_opts(opts, group)
    octavia_options.register(conf)
    return Resources(conf, probe.bus(conf))


def healing(program: Program, cloud: ControlPlane, *on: str, **housekeeping: object) -> None:
    """Configure what heals, and start the daemon."""
    journal = {"connection": f"sqlite:///{program.folder}/journal.sqlite"}
    program.configure({"journal": journal, **options(cloud, *on, **housekeeping)})
    start(program, cloud)


def settled(program: Program) -> bool:
    """Whether nothing is left to look at but timers."""
    waiting = program.json("work", "list")
    return not [
        row for row in waiting if row["state"] in ("pending", "running") and not row["key"].startswith("sweep:")
    ]
