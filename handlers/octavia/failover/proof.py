"""Whether an amphora has failed: the proof, as a pure function over what was read.

An amphora serves until one of these holds:

- Octavia says so: its row is in ERROR, in which Octavia leaves it for ever;
- Nova does not know its server;
- its server is stopped, in ERROR, suspended or shelved, and no heartbeat has come for longer than the time between two:
  for a server may be called ERROR by a failed migration and go on working;
- no heartbeat has come for ``stale_after`` seconds, or a fence of ours says that this was so;
- it is marked and cut off by ourselves: it cannot come back from that.

Whatever Nova is working on is waited for. An amphora without a heartbeat record, and with a server that is ACTIVE, never
sent one and proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handlers.octavia import records
from handlers.octavia.cloud_objects import PRESERVED, Port, Server

#: seconds without a heartbeat after which a server that looks dead is; amphorae send one every 10 (``heartbeat_interval``)
QUIET = 12.0

#: states of a server in which no amphora serves
_DOWN = frozenset({"SHUTOFF", "ERROR", "SUSPENDED", "SHELVED", "SHELVED_OFFLOADED", "SOFT_DELETED", "DELETED"})


@dataclass(frozen=True, slots=True)
class Failed:
    """It has failed.

    :param why: what proves it
    :param lives: whether it sends heartbeats all the same
    :param only_silent: whether nothing but its silence proves it
    """

    why: str
    lives: bool = False
    only_silent: bool = False


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing proves that it has failed."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """It cannot be told yet.

    :param after: seconds until it can
    """

    reason: str
    after: float


def judge(
    amphora: records.Amphora,
    health: records.Health | None,
    server: Server | None,
    ports: Sequence[Port],
    stale_after: float,
) -> Failed | Alive | Unclear:
    """Judge an amphora that is ALLOCATED, FAILOVER_STOPPED or in ERROR, on a load balancer that nobody works on.

    :param server: None when it has none, or Nova does not know it
    :param ports: the server's
    :param stale_after: seconds of silence
    """
    connected = any(port.admin_up for port in ports)
    beating = health is not None and -records.SKEW <= health.silent < QUIET
    if amphora.status == "ERROR":
        return Failed("Octavia says that it is in ERROR", lives=beating and connected)
    if server is None:
        return Failed("Nova does not know its server" if amphora.compute_id else "its row has no server")
    if PRESERVED in server.tags and not connected:
        return Failed("it is cut off")
    without_vip = amphora.vrrp_port_id is not None and all(port.id != amphora.vrrp_port_id for port in ports)
    if PRESERVED in server.tags and without_vip:
        return Failed("it was cut off from its VIP", lives=beating)
    if server.status in _DOWN:
        return _down(server, health if beating else None)
    fenced = health is not None and health.silent < -records.SKEW
    if health is not None and (fenced or health.silent > stale_after):
        return Failed(f"no heartbeat has come for {stale_after:g} s", only_silent=True)
    if server.task_state in {"deleting", "soft-deleting", "powering-off"}:
        return Unclear(f"Nova is working on server {server.id}: {server.task_state}", 1.5)
    return Alive()


def _down(server: Server, beating: records.Health | None) -> Failed | Unclear:
    if beating is not None:
        return Unclear(
            f"server {server.id} is {server.status}, but its amphora has just sent a heartbeat",
            max(1.0, QUIET - beating.silent),
        )
    if server.task_state and PRESERVED not in server.tags:
        return Unclear(f"Nova is working on server {server.id}: {server.task_state}", 2.0)
    return Failed(f"its server is {server.status}")
