"""``[bus]``: where notifications are read and in which portions.

How to reach a broker (hosts, TLS, heartbeats) is not asked here a second time: that is ``transport_url`` and
``[oslo_messaging_rabbit]``, as in every OpenStack service.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg, types

GROUP = cfg.OptGroup("bus", title="Reading notifications from RabbitMQ")


class UnusableURL(ValueError):
    """This transport URL leads to no broker that can be read; the text has no secrets in it."""


def _prose(text: str) -> str:
    """Join the lines of each paragraph: the generated sample breaks them anew."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


PRIORITIES = ("audit", "debug", "info", "warn", "error", "critical", "sample")

OPTS = [
    cfg.StrOpt(
        "queue_mode",
        default="topic",
        choices=[
            ("topic", "Read the queues of a topic of our own, which the publishers create and fill."),
            ("bind", "Create a durable quorum queue of our own and bind it to topics that others read as well."),
        ],
        help=_prose("""
Which queues to read.

With ``topic``, the publishers get one more topic, which nobody else reads. In nova.conf:
``[notifications] versioned_notifications_topics = versioned_notifications,stackmend``; in octavia.conf:
``[oslo_messaging_notifications] topics = notifications,stackmend``. The publishers create the queues
(``stackmend.info``, ``stackmend.error``), so nothing is lost before the first start, and read rights on these queues are
all that is needed. Queues that do not exist yet are waited for.

With ``bind``, for publishers whose configuration cannot be changed, the queue ``queue_name`` is created and bound to
``bind_topics``. It gets what is published from then on, and needs the rights to configure it and to read the exchanges.
After going back to ``topic``, delete the queue: it would grow for ever.

The shared queues (``notifications.info``, ``versioned_notifications.info``) are never read: that would steal messages
from whoever else reads them.
"""),
    ),
    cfg.ListOpt(
        "topics",
        default=["stackmend"],
        item_type=types.String(max_length=200),
        help=_prose("""
Topics whose queues are read with ``queue_mode = topic``: the ones that were added to the publishers' configuration for
this service. A topic and a priority make a queue: ``stackmend.info``.
"""),
    ),
    cfg.ListOpt(
        "priorities",
        default=["info", "error"],
        item_type=types.String(choices=PRIORITIES),
        help=_prose("""
Priorities to read. Nova sends failures (``instance.create.error``, ``compute_task.build_instances.error``) with priority
``error`` and everything else of interest with ``info``; Octavia sends ``info`` only. Possible: audit, debug, info, warn,
error, critical, sample.
"""),
    ),
    cfg.StrOpt(
        "queue_name",
        default="stackmend.events",
        max_length=255,
        help=_prose("""
Name of the queue that ``queue_mode = bind`` creates on each broker. All replicas must have the same name, to share
the work; two installations on one broker must have different ones.
"""),
    ),
    cfg.ListOpt(
        "bind_topics",
        default=["versioned_notifications", "notifications"],
        item_type=types.String(max_length=200),
        help=_prose("""
Topics to bind the queue to with ``queue_mode = bind``. Nova's versioned notifications go to ``versioned_notifications``,
its legacy ones and Octavia's go to ``notifications``, unless configured otherwise there. Both formats of one fact
are understood as the same, so reading both costs only time. A topic that is removed here stays bound on the
broker until it is unbound or the queue is deleted.
"""),
    ),
    cfg.IntOpt(
        "batch_size",
        default=500,
        min=1,
        max=1000,
        help=_prose("""
Messages that are stored in one transaction and acknowledged at once, at most. The broker sends up to twice as many
ahead, so that the next batch arrives while one is stored. A batch also ends at 8 MB.
"""),
    ),
    cfg.FloatOpt(
        "batch_seconds",
        default=0.05,
        min=0.0,
        max=5.0,
        help=_prose("""
How far apart batches are at least, so that messages which come close together are stored together. The first message
after a silence does not wait; under load, this much is added between an event and the reaction to it, not more.
"""),
    ),
    cfg.IntOpt(
        "dead_body_bytes",
        default=1024 * 1024,
        min=1024,
        max=16 * 1024 * 1024,
        help=_prose("""
How much of a message that cannot be read is stored for inspection, in bytes; what is longer is cut. Notifications
have a few kB.
"""),
    ),
    cfg.FloatOpt(
        "connect_timeout",
        default=5.0,
        min=0.1,
        max=120.0,
        help="Seconds to wait for one host of a broker to accept a connection before the next host is tried.",
    ),
    cfg.FloatOpt(
        "answer_timeout",
        default=15.0,
        min=1.0,
        max=300.0,
        help=_prose("""
Seconds to wait for the broker's answer to a request (open, declare, close) on a connection that stands, before the
connection is given up.
"""),
    ),
    cfg.FloatOpt(
        "queue_wait",
        default=1.0,
        min=0.1,
        max=300.0,
        help=_prose("""
Seconds between two looks for a queue or an exchange that does not exist yet. Grows to five times this while it
stays away.
"""),
    ),
    cfg.FloatOpt(
        "hold_seconds",
        default=300.0,
        min=1.0,
        max=1500.0,
        help=_prose("""
How long messages are kept unacknowledged while the journal's database cannot store them. Then the connection is closed
and opened again when the database is back, because RabbitMQ itself ends a delivery that stays unacknowledged for
30 minutes (``consumer_timeout``), and a quorum queue of RabbitMQ 4 drops a message that came back 20 times
(``delivery-limit``): this way an outage of any length counts once.
"""),
    ),
]


@dataclass(frozen=True, slots=True)
class BusSettings:
    """``[bus]`` as values; see the help texts there.

    :param conf: the loaded configuration, where ``[oslo_messaging_rabbit]`` is read; None for the library's defaults
    """

    queue_mode: str = "topic"
    topics: tuple[str, ...] = ("stackmend",)
    priorities: tuple[str, ...] = ("info", "error")
    queue_name: str = "stackmend.events"
    bind_topics: tuple[str, ...] = ("versioned_notifications", "notifications")
    batch_size: int = 500
    batch_seconds: float = 0.05
    dead_body_bytes: int = 1024 * 1024
    connect_timeout: float = 5.0
    answer_timeout: float = 15.0
    queue_wait: float = 1.0
    hold_seconds: float = 300.0
    conf: cfg.ConfigOpts | None = field(default=None, repr=False, compare=False)

    @property
    def prefetch(self) -> int:
        """How many messages the broker may send ahead of their acknowledgement, per queue."""
        return 2 * self.batch_size

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues to read."""
        if self.queue_mode == "bind":
            return (self.queue_name,)
        return _keys(self.topics, self.priorities)

    @property
    def bindings(self) -> tuple[str, ...]:
        """The routing keys to bind our own queue to; none when the publishers fill the queues."""
        return _keys(self.bind_topics, self.priorities) if self.queue_mode == "bind" else ()


def register(conf: cfg.ConfigOpts) -> None:
    """Register the options on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> BusSettings:
    """Read the options, which must be registered, from ``conf``."""
    bus = conf.bus
    return BusSettings(
        queue_mode=bus.queue_mode,
        topics=tuple(bus.topics),
        priorities=tuple(bus.priorities),
        queue_name=bus.queue_name,
        bind_topics=tuple(bus.bind_topics),
        batch_size=bus.batch_size,
        batch_seconds=bus.batch_seconds,
        dead_body_bytes=bus.dead_body_bytes,
        connect_timeout=bus.connect_timeout,
        answer_timeout=bus.answer_timeout,
        queue_wait=bus.queue_wait,
        hold_seconds=bus.hold_seconds,
        conf=conf,
    )


def _keys(topics: tuple[str, ...], priorities: tuple[str, ...]) -> tuple[str, ...]:
    """Make routing keys as oslo.messaging does; it names its default queues the same."""
    return tuple(dict.fromkeys(f"{topic}.{priority}" for topic in topics for priority in priorities))
