"""Sends messages to systemd (``sd_notify(3)``): ready, alive, stopping. Without systemd, nothing happens."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state to systemd; ignore failures.

    :param state: assignments such as ``READY=1``, one per line
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name in the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), address)
    except OSError:
        return


def watchdog_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds between two watchdog messages, half of systemd's limit; None without a watchdog."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    if not text.isdigit() or text == "0" or pid != str(os.getpid()):
        return None
    return int(text) / 2_000_000
