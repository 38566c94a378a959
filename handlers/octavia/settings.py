"""The options ``[housekeeping]``: the specification's, by their names, and what reality needs besides."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

from handlers.octavia.flow_times import FlowTimes

GROUP = "housekeeping"

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "driver",
        default="openstack",
        choices=[
            ("openstack", "the cloud, through its APIs"),
            ("noop", "nothing outside stackmend's own memory: to try the service without a cloud"),
        ],
        help="What amphorae are kept with.",
    ),
    cfg.IntOpt(
        "housekeeping_interval",
        default=30,
        min=1,
        help="Seconds between two turns of the housekeeping: the spare pool is counted and topped up, and amphorae that "
        "Octavia left behind are looked for. Each lists the servers of Octavia's project, the latter ports and groups too, "
        "and reads Octavia's amphora rows; 30 suits up to a few thousand amphorae.",
    ),
    cfg.IntOpt(
        "spare_amphora_pool_size",
        default=0,
        min=0,
        help="How many stopped placeholder servers are kept, in each availability zone of spare_amphora_zones, so that "
        "a failover finds room in a cloud that is otherwise full; 0 for none. Each takes the room of one amphora.",
    ),
    cfg.ListOpt(
        "spare_amphora_zones",
        default=[],
        help="Availability zones of Nova in which spares are kept; empty: wherever Nova places them.",
    ),
    cfg.ListOpt(
        "spare_amphora_flavors",
        default=[],
        help="Ids of the flavors of Nova of which spares are kept, that many of each in each zone; empty: [controller_worker] "
        "amp_flavor_id of Octavia alone. For a failover, one of the amphora's own flavor is taken first.",
    ),
    cfg.IntOpt(
        "maximum_deploying_amphora_count",
        default=2,
        min=1,
        help="How many amphorae may be building at once, Octavia's own counted, before no spare is begun.",
    ),
    cfg.IntOpt(
        "maximum_preserved_amphora_count",
        default=0,
        min=0,
        help="How many failed amphorae are kept for examination; 0: none, a failed one is replaced and deleted. Each "
        "keeps its disk, and by the method unplug its room on the host, until it is released or deleted.",
    ),
    cfg.StrOpt(
        "preservation_scheme",
        default="keep",
        choices=[
            ("keep", "stops preserving when that many are kept"),
            ("cycle", "deletes the oldest, wholly, when a new one comes"),
        ],
        help="What happens when maximum_preserved_amphora_count is reached.",
    ),
    cfg.StrOpt(
        "preservation_method",
        default="unplug",
        choices=[
            ("unplug", "the server stays as it is, without a network"),
            ("snapshot", "an image is made of its disk"),
        ],
        help="How a failed amphora is kept. An image holds the amphora's keys and certificates: treat it as a secret.",
    ),
    cfg.StrOpt(
        "preservation_keeps",
        default="image",
        choices=[
            ("image", "the image only; the server is deleted"),
            ("server", "the image and the server, stopped and without a network"),
        ],
        help="What is kept after a snapshot.",
    ),
    cfg.IntOpt(
        "preservation_lease",
        default=120,
        min=30,
        help="Seconds for which Octavia's health manager is kept from deleting an amphora that is being preserved; "
        "renewed while that goes on, and expiring by itself when stackmend dies.",
    ),
    cfg.IntOpt(
        "preservation_deadline",
        default=600,
        min=30,
        help="Seconds after which an amphora whose network cannot be detached, or whose image does not get ready, is no "
        "longer waited for: its load balancer is repaired without it.",
    ),
    cfg.IntOpt(
        "failover_threshold",
        default=3,
        min=0,
        help="How many amphorae may have failed, or been failed over, within failover_window before no further one is "
        "touched and all are only reported: it is then the network or a host that fails, and failovers would make it "
        "worse. 0 for no bound. Octavia's own option of this name bounds only its health manager.",
    ),
    cfg.IntOpt(
        "failover_window",
        default=300,
        min=1,
        help="Seconds over which failovers are counted for failover_threshold.",
    ),
    cfg.IntOpt(
        "heartbeat_margin",
        default=20,
        min=0,
        help="Seconds before [health_manager] heartbeat_timeout at which a silent amphora counts as failed, so that it is "
        "preserved before Octavia's health manager deletes it. Amphorae send a heartbeat every 10 seconds.",
    ),
]


@dataclass(frozen=True, slots=True)
class HousekeepingSettings:
    """The values of ``[housekeeping]``; times are in seconds.

    :param stale_after: seconds of silence after which an amphora counts as failed
    :param longest_flow: seconds for which a flow of Octavia can work without a change to its rows
    :param spare_owner: the mark of this stackmend's spares
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
    stale_after: float = 40.0
    longest_flow: float = FlowTimes().longest_silence
    spare_owner: str = ""

    @property
    def keeps_image_alone(self) -> bool:
        """Whether an image is all that is preserved, so that no server has to be cut off."""
        return self.preservation_method == "snapshot" and self.preservation_keeps == "image"


def settings(conf: cfg.ConfigOpts, heartbeat_timeout: int) -> HousekeepingSettings:
    """Read the settings.

    :param heartbeat_timeout: Octavia's, seconds
    """
    group = conf[GROUP]
    return HousekeepingSettings(
        group.spare_amphora_pool_size,
        tuple(group.spare_amphora_zones),
        tuple(group.spare_amphora_flavors),
        group.maximum_deploying_amphora_count,
        group.maximum_preserved_amphora_count,
        group.preservation_scheme,
        group.preservation_method,
        group.preservation_keeps,
        group.preservation_lease,
        group.preservation_deadline,
        group.failover_threshold,
        group.failover_window,
        # below two heartbeats even a healthy amphora would look silent
        max(20.0, heartbeat_timeout - group.heartbeat_margin),
    )
