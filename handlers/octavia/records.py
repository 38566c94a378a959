"""Rows of Octavia's database as values: only what handlers decide on.

Ages are seconds by the database's own clock. ``updated_at`` is carried as it was read, because guarded writes compare it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

#: providers whose load balancers are made of amphorae (``octavia/common/constants.py``)
AMPHORA_PROVIDERS = ("amphora", "octavia", "amphorav2")

#: states of a load balancer in which no flow of Octavia works on it, and a failover is accepted
IDLE = frozenset({"ACTIVE", "ERROR"})

#: states of an amphora in which it serves a load balancer, or did until it failed
SERVING = frozenset({"ALLOCATED", "FAILOVER_STOPPED"})

#: seconds by which a heartbeat may lie in the future because two clocks differ; further ahead, it is a lease of ours
SKEW = 5.0

#: how many amphorae a topology has (``octavia/common/constants.py``)
AMPHORAE_OF = {"SINGLE": 1, "ACTIVE_STANDBY": 2}


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """A row of ``load_balancer``.

    :param status: ``provisioning_status``
    :param age: seconds since it was last written
    """

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
        """Whether no flow works on it and a failover is accepted."""
        return self.status in IDLE


@dataclass(frozen=True, slots=True)
class Amphora:
    """A row of ``amphora``.

    :param age: seconds since it was last written
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


@dataclass(frozen=True, slots=True)
class Health:
    """A row of ``amphora_health``.

    :param silent: seconds since the last heartbeat; below zero where a lease was written into the future
    :param busy: Octavia's health manager has taken the amphora for a failover; nobody ever clears it
    """

    amphora_id: str
    silent: float
    busy: bool
