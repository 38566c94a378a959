"""Rows of Octavia's database as values.

Each ``age`` is the seconds since the last write of the row, by the database's clock. ``updated_at`` is the value as read,
because writes compare it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

#: providers whose load balancers consist of amphorae (``octavia/common/constants.py``)
AMPHORA_PROVIDERS = ("amphora", "octavia", "amphorav1", "amphorav2")

#: states of a load balancer in which no flow of Octavia works on it, and a failover is accepted
IDLE = frozenset({"ACTIVE", "ERROR"})

#: states of an amphora in which it serves a load balancer, or did until it failed
SERVING = frozenset({"ALLOCATED", "FAILOVER_STOPPED"})

#: seconds by which a heartbeat may lie in the future because two clocks differ; a heartbeat lease lies further ahead
SKEW = 15.0

#: the number of amphorae of a topology (``octavia/common/constants.py``)
AMPHORAE_OF = {"SINGLE": 1, "ACTIVE_STANDBY": 2}


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """A row of ``load_balancer``."""

    id: str
    project_id: str | None
    name: str | None
    status: str
    topology: str | None
    server_group_id: str | None
    provider: str | None
    updated_at: datetime | None
    age: float

    @property
    def idle(self) -> bool:
        """Whether no flow works on the load balancer, so that Octavia accepts a failover."""
        return self.status in IDLE

    def is_whole(self, serving: int) -> bool:
        """Return whether the load balancer is ACTIVE, and all amphorae of its topology serve.

        If a further amphora is failed over, Octavia builds one amphora too many, which answers for the same VIP
        (``get_failover_amphora_flow`` in ``octavia/controller/worker/v2/flows/amphora_flows.py``).

        :param serving: number of its amphorae that serve
        """
        wanted = AMPHORAE_OF.get(self.topology or "")
        return self.status == "ACTIVE" and wanted is not None and serving >= wanted


@dataclass(frozen=True, slots=True)
class Amphora:
    """A row of ``amphora``.

    :param cert_expiration: the end of the amphora's certificate; Octavia's worker writes it before it boots the server
    """

    id: str
    load_balancer_id: str | None
    compute_id: str | None
    status: str
    role: str | None
    lb_network_ip: str | None
    vrrp_port_id: str | None
    ha_port_id: str | None
    zone: str | None
    compute_flavor: str | None
    updated_at: datetime | None
    age: float
    cert_expiration: datetime | None = None

    @property
    def is_device(self) -> bool:
        """Whether the row has no server, address and certificate, like the row of an F5 device (F5's ``status_manager.py``)."""
        return self.compute_id is None and self.lb_network_ip is None and self.cert_expiration is None


@dataclass(frozen=True, slots=True)
class Health:
    """A row of ``amphora_health``: the heartbeat record of an amphora.

    :param silent: seconds since the last heartbeat; negative for a heartbeat in the future
    :param last_update: the time of the last heartbeat, or the end of a heartbeat lease
    :param busy: whether Octavia's health manager or stackmend has begun to replace the amphora; Octavia never resets ``busy``
    """

    amphora_id: str
    silent: float
    busy: bool
    last_update: datetime | None = None
