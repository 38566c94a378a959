"""``stackmend check`` reports the reasons for which Octavia's handlers only report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from oslo_config import cfg

from handlers.access.service_files import ServiceFiles
from handlers.base import Bus, Checked, Handler, Mode, QueueDepth, Resources, Verdict
from handlers.octavia import options, settings
from handlers.octavia.brokers import octavia_brokers
from handlers.octavia.certificates.amphora_certificates import AmphoraCertificates
from handlers.octavia.checks import octavia_checks
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.flow_times import flow_times
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.simulation.cloud import Cloud
from handlers.octavia.simulation.controller import Controller
from handlers.octavia.spares.spare_pool import SparePool
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers

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
    return [one.text for one in checked(folder, text, modes, subject, more=more) if one.verdict is Verdict.WARNING]


def checked(
    folder: Path,
    text: str,
    modes: dict[type[Handler], Mode],
    subject: str,
    driver: str = "noop",
    bus: Bus | None = None,
    more: tuple[cfg.Opt, ...] = (),
    own: Mapping[str, int] | None = None,
) -> list[Checked]:
    (folder / "octavia.conf").write_text(text)
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf.register_opts([*settings.OPTIONS, *more], settings.GROUP)
    conf([], default_config_files=[])
    conf.set_override("config_file", [str(folder / "octavia.conf")], "octavia")
    conf.set_override("database_connection", f"sqlite:///{folder}/octavia.sqlite", "octavia")
    conf.set_override("driver", driver, "housekeeping")
    for name, value in (own or {}).items():
        conf.set_override(name, value, "housekeeping")
    return [one for one in octavia_checks(Resources(conf, bus), modes) if one.subject == subject]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE.replace("[task_flow]\njobboard_enabled = False\n", ""), "unknown whether Octavia has a jobboard"),
        (
            WHOLE.replace("jobboard_enabled = False", "jobboard_enabled = True"),
            "the host of Octavia's jobboard is unknown",
        ),
        (WHOLE.replace("[haproxy_amphora]\nconnection_max_retries = 120\n", ""), "no [haproxy_amphora]"),
        (WHOLE.replace("transport_url = rabbit://u:secret@h//", "debug = False"), "no transport_url"),
    ],
)
def test_an_unknown_work_queue_is_a_warning(tmp_path: Path, text: str, words: str) -> None:
    (warning,) = warnings(tmp_path, text, {StuckLoadBalancers: Mode.HEAL, DeactivatedAmphorae: Mode.HEAL})
    assert words in warning
    assert "deactivated_amphorae and stuck_load_balancers only report" in warning
    assert "set their modes to audit in [housekeeping]" in warning
    assert "secret" not in warning


def test_a_known_work_queue_is_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, WHOLE, {StuckLoadBalancers: Mode.HEAL}) == []


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (WHOLE, Mode.HEAL, []),
        (WHOLE + "[nova]\nrandom_amphora_name_length = 0\n", Mode.HEAL, []),
        (WHOLE + "[nova]\nrandom_amphora_name_length = 15\n", Mode.OFF, []),
        (WHOLE + "[nova]\nrandom_amphora_name_length = 15\n", Mode.AUDIT, ["removes no amphora that has a server"]),
        (WHOLE + "[nova]\nrandom_amphora_name_length = 1\n", Mode.HEAL, ["sees no server that Octavia left behind"]),
    ],
)
def test_random_names_of_servers_are_a_warning(tmp_path: Path, text: str, mode: Mode, words: list[str]) -> None:
    found = warnings(tmp_path, text, {DeactivatedAmphorae: mode}, f"{tmp_path / 'octavia.conf'}: names of servers")
    assert len(found) == len(words)
    assert all(word in one for word, one in zip(words, found, strict=True))


@pytest.mark.parametrize(("silent", "number"), [(5.0, 0), (-4.0, 0), (-20.0, 1), (70.0, 0)])
def test_heartbeats_in_the_future_are_a_warning(tmp_path: Path, silent: float, number: int) -> None:
    database = OctaviaDatabase(f"sqlite:///{tmp_path}/octavia.sqlite")
    octavia = Controller(database, Cloud())
    octavia.prepare()
    for _number in range(3):
        octavia.heartbeat(str(uuid4()), silent)
    octavia.heartbeat(str(uuid4()), -100.0)  # one is under lease
    database.close()
    assert len(warnings(tmp_path, WHOLE, {FailedAmphora: Mode.AUDIT}, "heartbeats: clock")) == number


def heartbeats(folder: Path, interval: int, timeout: int, margin: int) -> tuple[Verdict, str]:
    text = f"{WHOLE}[health_manager]\nheartbeat_interval = {interval}\nheartbeat_timeout = {timeout}\n"
    own = {"heartbeat_margin": margin, "maximum_preserved_amphora_count": 1}
    modes: dict[type[Handler], Mode] = {FailedAmphora: Mode.AUDIT}
    (found,) = checked(folder, text, modes, f"{folder / 'octavia.conf'}: heartbeats", own=own)
    return found.verdict, found.text


@pytest.mark.parametrize("interval", [3, 10, 40])
@pytest.mark.parametrize("timeout", [10, 30, 60])
@pytest.mark.parametrize("margin", [0, 5, 20])
def test_the_advice_about_heartbeats_lets_silent_amphorae_be_preserved(
    tmp_path: Path, interval: int, timeout: int, margin: int
) -> None:
    verdict, text = heartbeats(tmp_path, interval, timeout, margin)
    preservable = margin > 0 and timeout > 3 * interval
    assert (verdict is Verdict.OK) == preservable, text
    advised = {name: int(value) for name, value in re.findall(r"(heartbeat_\w+) = (\d+)", text)}
    assert bool(advised) != preservable
    timeout, margin = advised.get("heartbeat_timeout", timeout), advised.get("heartbeat_margin", margin)
    verdict, text = heartbeats(tmp_path, interval, timeout, margin)
    assert verdict is Verdict.OK, text


def test_handlers_that_do_not_need_the_work_queue_are_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, "", {StuckLoadBalancers: Mode.AUDIT, SparePool: Mode.HEAL}) == []


@pytest.mark.parametrize(("seconds", "words"), [(5, []), (30, []), (31, ["with more than 30 s"])])
def test_a_watch_that_is_too_slow_for_heartbeats_is_a_warning(tmp_path: Path, seconds: int, words: list[str]) -> None:
    interval = cfg.IntOpt("failed_amphora_interval", default=seconds)
    modes: dict[type[Handler], Mode] = {FailedAmphora: Mode.AUDIT}
    found = warnings(tmp_path, WHOLE, modes, "[housekeeping] failed_amphora_interval", (interval,))
    assert [text.partition(",")[0] for text in found] == words


@pytest.mark.parametrize(
    ("text", "consumers", "verdict", "words"),
    [
        (WHOLE, 1, Verdict.OK, "a worker consumes"),
        (
            WHOLE,
            0,
            Verdict.FAILURE,
            "failed_amphora cannot ask Octavia for a failover: octavia-worker: no worker consumes",
        ),
        ("", 1, Verdict.FAILURE, "write [DEFAULT] transport_url in a file of [octavia] config_file"),
    ],
)
def test_a_failover_needs_a_worker_on_a_known_broker(
    tmp_path: Path, text: str, consumers: int, verdict: Verdict, words: str
) -> None:
    bus = Bus(queues=lambda _broker: lambda _queue: QueueDepth(0, consumers))
    (found,) = checked(tmp_path, text, {FailedAmphora: Mode.HEAL}, "octavia worker", "openstack", bus)
    assert (found.verdict, words in found.text) == (verdict, True), found.text


def test_a_missing_worker_has_a_remedy(tmp_path: Path) -> None:
    bus = Bus(queues=lambda _broker: lambda _queue: QueueDepth(0, 0))
    (found,) = checked(tmp_path, WHOLE, {FailedAmphora: Mode.HEAL}, "octavia worker", "openstack", bus)
    assert found.text.endswith(": start octavia-worker")


@pytest.mark.parametrize(("value", "verdict"), [("1", Verdict.WARNING), ("2", Verdict.OK)])
def test_a_threshold_of_one_has_a_remedy(tmp_path: Path, value: str, verdict: Verdict) -> None:
    subject = f"{tmp_path / 'octavia.conf'}: failover_threshold"
    text = f"{WHOLE}[health_manager]\nfailover_threshold = {value}\n"
    (found,) = checked(tmp_path, text, {FailedAmphora: Mode.HEAL}, subject)
    assert found.verdict is verdict
    assert ("write there [health_manager] failover_threshold = 3" in found.text) == (verdict is Verdict.WARNING)


def test_a_database_of_octavia_that_does_not_answer_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "octavia.sqlite").mkdir()
    (found,) = checked(tmp_path, WHOLE, {}, "octavia_database")
    assert found.verdict is Verdict.FAILURE
    assert found.text.endswith("see [octavia] database_connection and config_file")


def test_a_handler_that_asks_for_nothing_needs_no_worker(tmp_path: Path) -> None:
    modes: dict[type[Handler], Mode] = {FailedAmphora: Mode.AUDIT, SparePool: Mode.HEAL}
    assert checked(tmp_path, "", modes, "octavia worker", "openstack") == []


def test_a_jobboard_that_does_not_answer_is_a_warning(tmp_path: Path) -> None:
    board = "jobboard_enabled = True\njobboard_backend_hosts = 127.0.0.1\njobboard_backend_port = 1\n"
    text = WHOLE.replace("jobboard_enabled = False\n", f"{board}jobboard_backend_password = hidden\n")
    (found,) = warnings(tmp_path, text, {StuckLoadBalancers: Mode.HEAL}, "octavia jobboard")
    assert (
        "stuck_load_balancers only report objects on which a flow may work: octavia-jobboard: it does not answer"
        in found
    )
    assert "hidden" not in found
    assert warnings(tmp_path, text, {StuckLoadBalancers: Mode.AUDIT}, "octavia jobboard") == []


def test_the_heal_of_certificates_needs_the_jobboard_too(tmp_path: Path) -> None:
    text = WHOLE.replace("jobboard_enabled = False", "jobboard_enabled = True")
    (found,) = warnings(tmp_path, text, {AmphoraCertificates: Mode.HEAL})
    assert "amphora_certificates only report" in found
    assert checked(tmp_path, text, {AmphoraCertificates: Mode.HEAL}, "octavia worker", "openstack") == []


#: groups of which the help of ``config_file`` names several options at once
_GROUPS = {"haproxy_amphora", "compute", "networking", "neutron", "glance", "service_auth", "keystone_authtoken"}


def test_the_help_of_config_file_names_every_option_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, get = set[tuple[str, str]](), ServiceFiles.get

    def noted(files: ServiceFiles, group: str, name: str) -> str | None:
        read.add((group, name))
        return get(files, group, name)

    monkeypatch.setattr(ServiceFiles, "get", noted)
    modes: dict[type[Handler], Mode] = dict.fromkeys(
        (FailedAmphora, DeactivatedAmphorae, StuckLoadBalancers), Mode.HEAL
    )
    text = f"{WHOLE}[oslo_messaging_notifications]\ndriver = messagingv2\n"
    checked(tmp_path, text, modes, "octavia work queue")
    files = ServiceFiles("[octavia] config_file", [str(tmp_path / "octavia.conf")])
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf([], default_config_files=[])
    conf.set_override("config_file", [str(tmp_path / "octavia.conf")], "octavia")
    assert [broker.exchanges for broker in octavia_brokers(Resources(conf))] == [("octavia",)]
    flow_times(files)
    assert {"control_exchange", "executor_thread_pool_size", "random_amphora_name_length"} <= {name for _, name in read}

    described = next(option.help for option in options.OPTIONS if option.name == "config_file") or ""
    unnamed = {
        (group, name)
        for group, name in read
        if group not in _GROUPS and not name.startswith(("amp_", "ssl")) and not re.search(rf"\b{name}\b", described)
    }
    assert unnamed == set()
    assert all(f"[{group}]" in described for group, _ in read)
