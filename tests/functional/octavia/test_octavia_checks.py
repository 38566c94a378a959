"""``stackmend check`` reports the reasons for which Octavia's handlers only report."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from handlers.base import Handler, Mode, Resources, Verdict
from handlers.octavia import options, settings
from handlers.octavia.checks import octavia_checks
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.spares.spare_pool import SparePool
from handlers.octavia.stuck_load_balancers import StuckLoadBalancers

WHOLE = """
[DEFAULT]
transport_url = rabbit://u:secret@h//
[task_flow]
jobboard_enabled = False
[haproxy_amphora]
connection_max_retries = 120
"""


def warnings(folder: Path, text: str, modes: dict[type[Handler], Mode]) -> list[str]:
    """Return the warnings about the work queue, with such a file of Octavia."""
    (folder / "octavia.conf").write_text(text)
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf.register_opts(settings.OPTIONS, settings.GROUP)
    conf([], default_config_files=[])
    conf.set_override("config_file", [str(folder / "octavia.conf")], "octavia")
    conf.set_override("database_connection", f"sqlite:///{folder}/octavia.sqlite", "octavia")
    conf.set_override("driver", "noop", "housekeeping")
    found = list(octavia_checks(Resources(conf), modes))
    return [one.text for one in found if one.subject == "octavia work queue" and one.verdict is Verdict.WARNING]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE.replace("[task_flow]\njobboard_enabled = False\n", ""), "unknown whether Octavia has a jobboard"),
        (WHOLE.replace("jobboard_enabled = False", "jobboard_enabled = True"), "Octavia has a jobboard"),
        (WHOLE.replace("[haproxy_amphora]\nconnection_max_retries = 120\n", ""), "no [haproxy_amphora]"),
        (WHOLE.replace("transport_url = rabbit://u:secret@h//", "debug = False"), "no transport_url"),
    ],
)
def test_an_unknown_work_queue_is_a_warning(tmp_path: Path, text: str, words: str) -> None:
    (warning,) = warnings(tmp_path, text, {StuckLoadBalancers: Mode.HEAL, DeactivatedAmphorae: Mode.HEAL})
    assert words in warning
    assert "deactivated_amphorae and stuck_load_balancers only report" in warning
    assert "secret" not in warning


def test_a_known_work_queue_is_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, WHOLE, {StuckLoadBalancers: Mode.HEAL}) == []


def test_handlers_that_do_not_need_the_work_queue_are_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, "", {StuckLoadBalancers: Mode.AUDIT, SparePool: Mode.HEAL}) == []
