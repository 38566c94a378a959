"""What systemd's environment means."""

from __future__ import annotations

import os

from consumer.status.systemd import notify, watchdog_seconds


def test_half_of_what_systemd_tolerates() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}) == 15


def test_no_watchdog_is_wanted() -> None:
    assert watchdog_seconds({}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "soon"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None


def test_a_socket_that_is_gone_is_no_reason_to_stop() -> None:
    notify("READY=1", {"NOTIFY_SOCKET": "/there/is/none"})
    notify("READY=1", {})
