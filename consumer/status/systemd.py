"""Telling systemd that the service is ready, lives, or stops (``sd_notify(3)``); nothing where systemd did not start it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state, such as ``READY=1``; one that cannot be sent is not worth stopping for.

    :param state: assignments, one per line
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
    """Return how often systemd wants to be told that the process lives: half of what it tolerates; None for never."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    if not text.isdigit() or text == "0" or pid != str(os.getpid()):
        return None
    return int(text) / 2_000_000
