"""``stackmend check`` reports the reasons for which Octavia's handlers only report."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from handlers.base import Handler, Mode, Resources, Verdict
from handlers.octavia import options, settings
from handlers.octavia.checks import octavia_checks
from handlers.octavia.failover.failed_amphora import FailedAmphora
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


def warnings(
    folder: Path,
    text: str,
    modes: dict[type[Handler], Mode],
    subject: str = "octavia work queue",
    more: tuple[cfg.Opt, ...] = (),
) -> list[str]:
    """Return the warnings about a subject, with such a file of Octavia."""
    (folder / "octavia.conf").write_text(text)
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf.register_opts([*settings.OPTIONS, *more], settings.GROUP)
    conf([], default_config_files=[])
    conf.set_override("config_file", [str(folder / "octavia.conf")], "octavia")
    conf.set_override("database_connection", f"sqlite:///{folder}/octavia.sqlite", "octavia")
    conf.set_override("driver", "noop", "housekeeping")
    found = list(octavia_checks(Resources(conf), modes))
    return [one.text for one in found if one.subject == subject and one.verdict is Verdict.WARNING]


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


@pytest.mark.parametrize(("seconds", "words"), [(5, []), (30, []), (31, ["with more than 30 s"])])
def test_a_watch_that_is_too_slow_for_heartbeats_is_a_warning(tmp_path: Path, seconds: int, words: list[str]) -> None:
    interval = cfg.IntOpt("failed_amphora_interval", default=seconds)
    modes: dict[type[Handler], Mode] = {FailedAmphora: Mode.AUDIT}
    found = warnings(tmp_path, WHOLE, modes, "[housekeeping] failed_amphora_interval", (interval,))
    assert [text.partition(",")[0] for text in found] == words
