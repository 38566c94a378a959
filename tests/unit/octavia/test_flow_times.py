"""The time for which a flow of Octavia can work without a change follows from octavia.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.octavia.flow_times import FlowTimes, age_or_default, flow_times


def read(folder: Path, text: str) -> FlowTimes:
    (folder / "octavia.conf").write_text(text)
    return flow_times(ServiceFiles("[octavia] config_file", [str(folder / "octavia.conf")]))


def test_without_options_octavias_defaults_count(tmp_path: Path) -> None:
    assert read(tmp_path, "") == FlowTimes()


def test_a_hanging_agent_alone_exceeds_half_an_hour() -> None:
    assert FlowTimes().longest_silence > 120 * (10 + 60 + 5) > 1800


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("[haproxy_amphora]\nconnection_max_retries = 1500\n", 1380 * 80),
        ("[haproxy_amphora]\nconnection_retry_interval = 6\n", 121 * 2),
        ("[haproxy_amphora]\nrest_request_conn_timeout = 11.0\n", 121),
        ("[haproxy_amphora]\nrest_request_read_timeout = 61\n", 121),
        ("[haproxy_amphora]\nbuild_active_retries = 121\n", 5),
        ("[haproxy_amphora]\nbuild_retry_interval = 6\n", 120),
        ("[controller_worker]\namp_active_retries = 31\n", 10),
        ("[controller_worker]\namp_active_wait_sec = 11\n", 30),
        ("[networking]\nport_detach_timeout = 301\n", 1),
        ("[networking]\nmax_retries = 16\n", 10),
        ("[networking]\nretry_max = 11\n", 15),
        ("[compute]\nmax_retries = 16\n", 10),
        ("[compute]\nretry_max = 11\n", 15),
    ],
)
def test_each_option_counts(tmp_path: Path, text: str, more: float) -> None:
    assert read(tmp_path, text).longest_silence == FlowTimes().longest_silence + more


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_a_value_that_is_no_time_is_an_error(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"\[networking\] max_retries in .*octavia.conf is not a number"):
        read(tmp_path, f"[networking]\nmax_retries = {value}\n")


def test_the_default_is_twice_the_longest_silence_and_less_than_it_is_refused() -> None:
    times = FlowTimes()
    assert age_or_default(None, times, "[x] after") == 2 * times.longest_silence
    assert age_or_default(times.longest_silence, times, "[x] after") == times.longest_silence
    with pytest.raises(ConfigError, match=r"\[x\] after = 1800 is too short"):
        age_or_default(1800, times, "[x] after")
