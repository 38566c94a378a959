"""The options ``[housekeeping]``, of Octavia's Housekeeping Manager specification and of stackmend itself."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

from handlers.octavia import options
from handlers.octavia.flow_times import FlowTimes

GROUP = "housekeeping"

#: seconds before Octavia's own failover at which a silent amphora counts as failed, where it can be preserved
MARGIN = 20

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "driver",
        default="openstack",
        help="The cloud of the handlers of amphorae: ``openstack`` for the APIs of the cloud; ``noop`` for a cloud in memory, "
        "to try stackmend without a cloud; or the name of an installed driver (entry point ``stackmend.amphora_drivers``).",
    ),
    cfg.IntOpt(
        "housekeeping_interval",
        default=30,
        min=1,
        help="Seconds between two sweeps of spare_pool and of deactivated_amphorae. Each lists the servers of Octavia's "
        "project and reads Octavia's amphora rows; deactivated_amphorae also lists ports and groups. 30 suits up to a few "
        "thousand amphorae.",
    ),
    cfg.IntOpt(
        "spare_amphora_pool_size",
        default=0,
        min=0,
        deprecated_name="spare_pool_size",
        help="Number of stopped placeholder servers in each availability zone of spare_amphora_zones; 0 for none. A "
        "failover in a full cloud gets the room of one. Each takes the room of one amphora.",
    ),
    cfg.ListOpt(
        "spare_amphora_zones",
        default=[],
        help="Availability zones of Nova that have spares; empty: Nova places them anywhere.",
    ),
    cfg.ListOpt(
        "spare_amphora_flavors",
        default=[],
        help="Ids of the flavors of spares; each zone has spare_amphora_pool_size of each. Empty: only [controller_worker] "
        "amp_flavor_id of Octavia. A failover first gets a spare of the amphora's own flavor.",
    ),
    cfg.StrOpt(
        "spare_amphora_owner",
        default="octavia",
        help="Mark of the spares and preserved amphorae of this stackmend; it neither claims, counts nor deletes those with "
        "another mark. Where several Octavias boot amphorae in one project, each of their stackmends needs its own. Before a "
        "change, delete the spares, and release or delete the preserved amphorae.",
    ),
    cfg.IntOpt(
        "maximum_deploying_amphora_count",
        default=2,
        min=1,
        help="No spare is built while this many amphorae are building, those of Octavia and of failovers included. A "
        "failover does not wait for this limit; failover_threshold limits failovers.",
    ),
    cfg.IntOpt(
        "maximum_preserved_amphora_count",
        default=0,
        min=0,
        deprecated_name="preservation_count",
        help="Number of failed amphorae that are preserved for examination; 0: every failed amphora is replaced and deleted. "
        "Each occupies its disk, and with the method unplug its room on the host, until you release or delete it.",
    ),
    cfg.StrOpt(
        "preservation_scheme",
        default="keep",
        choices=[
            ("keep", "preserve no further amphora"),
            ("cycle", "preserve the new amphora and delete the oldest"),
        ],
        help="The action at maximum_preserved_amphora_count.",
    ),
    cfg.StrOpt(
        "preservation_method",
        default="unplug",
        choices=[
            ("unplug", "the server stays as it is, without a network"),
            ("snapshot", "Nova makes an image of its disk"),
        ],
        help="The way to preserve a failed amphora. An image contains keys and certificates: treat it as a secret.",
    ),
    cfg.StrOpt(
        "preservation_keeps",
        default="image",
        choices=[
            ("image", "the image only; the server is deleted"),
            ("server", "the image and the server, stopped and without a network"),
        ],
        help="The objects that are preserved after a snapshot. The specification demands ``server``. The default deletes the "
        "server: a stopped one occupies disk on its host and a place in its server group. Then a replacement may find no host.",
    ),
    cfg.IntOpt(
        "preservation_lease",
        default=120,
        min=30,
        help="Seconds of one lease against Octavia's health manager, which does not replace an amphora under lease. "
        "stackmend renews it during a preservation. It expires by itself when stackmend dies.",
    ),
    cfg.IntOpt(
        "preservation_deadline",
        default=600,
        min=30,
        help="Seconds to wait for detached ports or for the image of a failed amphora. Then its load balancer is repaired "
        "without waiting longer.",
    ),
    cfg.IntOpt(
        "failover_threshold",
        default=3,
        min=0,
        help="When this many other amphorae failed or were replaced within failover_window, further ones are only reported: "
        "the network or a host has failed, and failovers make that worse. 0 for no bound. Octavia's option of this name "
        "bounds only its health manager.",
    ),
    cfg.IntOpt(
        "failover_window",
        default=300,
        min=1,
        help="Seconds for which a failure counts for failover_threshold.",
    ),
    cfg.IntOpt(
        "heartbeat_margin",
        default=MARGIN,
        min=0,
        help="Where amphorae are preserved, a silent amphora counts as failed this many seconds before [health_manager] "
        "heartbeat_timeout. So Octavia's health manager does not delete it first. At least three heartbeats must be missing.",
    ),
]


#: Octavia's failover_threshold with which its health manager replaces nothing
_DELEGATED = 1
#: heartbeats that a healthy amphora may lose one after the other
_LOST = 3


@dataclass(frozen=True, slots=True)
class HousekeepingSettings:
    """The values of ``[housekeeping]``; times are in seconds.

    :param heartbeat_timeout: silence after which Octavia's health manager replaces an amphora
    :param stale_after: silence after which an amphora counts as failed
    :param longest_flow: longest time for which a working flow of Octavia writes no row
    :param spare_owner: ``spare_amphora_owner``, the name on this stackmend's placeholders and preserved amphorae
    """

    spare_amphora_pool_size: int = 0
    spare_amphora_zones: tuple[str, ...] = ()
    spare_amphora_flavors: tuple[str, ...] = ()
    maximum_deploying_amphora_count: int = 2
    maximum_preserved_amphora_count: int = 0
    preservation_scheme: str = "keep"
    preservation_method: str = "unplug"
    preservation_keeps: str = "image"
    preservation_lease: int = 120
    preservation_deadline: int = 600
    failover_threshold: int = 3
    failover_window: int = 300
    heartbeat_timeout: float = 60.0
    heartbeat_interval: float = options.HEARTBEAT_INTERVAL
    stale_after: float = 40.0
    longest_flow: float = FlowTimes().longest_silence
    spare_owner: str = ""

    @property
    def quiet_after(self) -> float:
        """The greatest age, in seconds, at which the last heartbeat contradicts a failure."""
        return 1.2 * self.heartbeat_interval

    @property
    def heard_within(self) -> float:
        """The greatest age, in seconds, of the last heartbeat of a healthy amphora."""
        return _LOST * self.heartbeat_interval

    @property
    def preserves(self) -> bool:
        return self.maximum_preserved_amphora_count > 0


def _threshold(own: int, octavias: int) -> int:
    """Return how many other failed amphorae stop stackmend's failovers; 0: no limit. The smaller of both limits counts.

    :param own: stackmend's ``failover_threshold``
    :param octavias: Octavia's ``failover_threshold``, which counts the amphora itself; 0 or 1 does not limit stackmend
    """
    if octavias <= _DELEGATED:
        return own
    return min(own, octavias - 1) if own else octavias - 1


def settings(conf: cfg.ConfigOpts, heartbeat_timeout: int) -> HousekeepingSettings:
    group = conf[GROUP]
    interval = options.heartbeat_interval(conf)
    margin = group.heartbeat_margin if group.maximum_preserved_amphora_count else 0
    return HousekeepingSettings(
        spare_amphora_pool_size=group.spare_amphora_pool_size,
        spare_amphora_zones=tuple(group.spare_amphora_zones),
        spare_amphora_flavors=tuple(group.spare_amphora_flavors),
        spare_owner=group.spare_amphora_owner,
        maximum_deploying_amphora_count=group.maximum_deploying_amphora_count,
        maximum_preserved_amphora_count=group.maximum_preserved_amphora_count,
        preservation_scheme=group.preservation_scheme,
        preservation_method=group.preservation_method,
        preservation_keeps=group.preservation_keeps,
        preservation_lease=group.preservation_lease,
        preservation_deadline=group.preservation_deadline,
        failover_threshold=_threshold(group.failover_threshold, options.failover_threshold(conf)),
        failover_window=group.failover_window,
        heartbeat_timeout=float(heartbeat_timeout),
        heartbeat_interval=interval,
        stale_after=max(_LOST * interval, float(heartbeat_timeout - margin)),
    )
