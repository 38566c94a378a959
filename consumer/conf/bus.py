"""``[bus]``: which notifications to read, and in which batches.

Other groups configure access to a broker: ``transport_url`` of its service, and ``[oslo_messaging_rabbit]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from oslo_config import cfg, types

GROUP = cfg.OptGroup("bus", title="Reading notifications from RabbitMQ")


class UnusableURL(ValueError):
    """A transport URL is malformed, not for RabbitMQ, or has wrong options. The message contains no user or password."""


class QueueMode(StrEnum):
    TOPIC = "topic"
    BIND = "bind"


def _prose(text: str) -> str:
    """Join the lines of each paragraph of a help text, because oslo.config wraps the text itself."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


PRIORITIES = ("audit", "debug", "info", "warn", "error", "critical", "sample")

OPTS = [
    cfg.StrOpt(
        "queue_mode",
        default=QueueMode.TOPIC.value,
        choices=[
            (QueueMode.TOPIC.value, "Read the queues of an own topic, which the publishers create and fill."),
            (QueueMode.BIND.value, "Create an own durable quorum queue and bind it to shared topics."),
        ],
        help=_prose("""
Which queues to read.

With ``topic``, the publishers get one more topic, which only stackmend reads. In nova.conf:
``[notifications] versioned_notifications_topics = versioned_notifications,stackmend``; in octavia.conf:
``[oslo_messaging_notifications] topics = notifications,stackmend``. The publishers create the queues
(``stackmend.info``, ``stackmend.error``) with the first message, so no message is lost before the first start. stackmend
waits for queues that do not exist yet, and needs only the right to read them.

With ``bind``, stackmend creates the queue ``queue_name`` and binds it to ``bind_topics``. Use it if you cannot change the
configuration of the publishers. The queue gets only later notifications. stackmend then needs the rights to configure, write
and read the queue, and to read the exchanges. If you return to ``topic``, delete the queue, or it grows without end.

stackmend never reads the shared queues (``notifications.info``, ``versioned_notifications.info``): that would take
messages from their other consumers.
"""),
    ),
    cfg.ListOpt(
        "topics",
        default=["stackmend"],
        item_type=types.String(max_length=200),
        help=_prose("""
With ``queue_mode = topic``, the topics to read: those that you added to the publishers' configuration for stackmend.
A topic and a priority name a queue: ``stackmend.info``.
"""),
    ),
    cfg.ListOpt(
        "priorities",
        default=["info", "error"],
        item_type=types.String(choices=PRIORITIES),
        help=_prose("""
Priorities to read. Nova sends failures (``instance.create.error``, ``compute_task.build_instances.error``) with priority
``error`` and all other relevant events with ``info``. Octavia sends only ``info``. Valid: audit, debug, info, warn, error,
critical, sample.
"""),
    ),
    cfg.StrOpt(
        "queue_name",
        default="stackmend.events",
        max_length=255,
        help=_prose("""
Name of the queue that ``queue_mode = bind`` creates on each broker. All replicas must use the same name to share the
work. Two installations on one broker must use different names.
"""),
    ),
    cfg.ListOpt(
        "bind_topics",
        default=["versioned_notifications", "notifications"],
        item_type=types.String(max_length=200),
        help=_prose("""
Topics to bind the queue to with ``queue_mode = bind``. By default, Nova sends versioned notifications to
``versioned_notifications`` and legacy ones to ``notifications``, as does Octavia. stackmend treats both formats of one
event as the same, so reading both only costs time. A topic that you remove here stays bound on the broker until you unbind
it or delete the queue.
"""),
    ),
    cfg.IntOpt(
        "batch_size",
        default=500,
        min=1,
        max=1000,
        help=_prose("""
The largest number of messages that are stored in one transaction and acknowledged together. The broker sends up to twice
as many ahead, so that the next batch arrives while one is stored. A batch also ends at 8 MB.
"""),
    ),
    cfg.FloatOpt(
        "batch_seconds",
        default=0.05,
        min=0.0,
        max=5.0,
        help=_prose("""
The least time between two batches, in seconds, unless a batch is full. Messages that arrive within it share a batch. The
first message after a silence does not wait; under load, a message waits at most this long.
"""),
    ),
    cfg.IntOpt(
        "max_body_bytes",
        default=1024 * 1024,
        min=64 * 1024,
        max=128 * 1024 * 1024,
        help=_prose("""
The largest message that is parsed, in bytes, after decompression. A larger one becomes a dead letter, and only its start is
read into memory. Notifications have a few kB. Parsing takes up to 60 times this size in memory.
"""),
    ),
    cfg.IntOpt(
        "dead_body_bytes",
        default=64 * 1024,
        min=1024,
        max=16 * 1024 * 1024 - 1,
        help=_prose("""
How many bytes of an undecodable message are stored for inspection. Notifications have a few kB.
"""),
    ),
    cfg.FloatOpt(
        "connect_timeout",
        default=5.0,
        min=0.1,
        max=120.0,
        help="Seconds to wait for one host of a broker to accept a connection, before the next host is tried.",
    ),
    cfg.FloatOpt(
        "answer_timeout",
        default=15.0,
        min=1.0,
        max=300.0,
        help=_prose("""
Seconds to wait for the broker's answer to a request (open, declare, close), before the connection is dropped.
"""),
    ),
    cfg.FloatOpt(
        "queue_wait",
        default=1.0,
        min=0.1,
        max=300.0,
        help=_prose("""
Seconds between the first two lookups of a queue or exchange that does not exist yet. Each further wait doubles, up to 300
times this value, because RabbitMQ logs an error for each lookup.
"""),
    ),
    cfg.FloatOpt(
        "unacknowledged_seconds",
        default=300.0,
        min=1.0,
        max=1500.0,
        help=_prose("""
Seconds for which messages stay unacknowledged while the journal's database cannot store them. Then the connection is
closed until the database answers. RabbitMQ itself ends a delivery that stays unacknowledged for 30 minutes
(``consumer_timeout``). A quorum queue of RabbitMQ 4 drops a message after 20 redeliveries (``delivery-limit``). With one
close, an outage of any length counts as one redelivery.
"""),
    ),
]


@dataclass(frozen=True, slots=True)
class BusSettings:
    """:param conf: the configuration with ``[oslo_messaging_rabbit]``; None for oslo.messaging's defaults"""

    queue_mode: QueueMode = QueueMode.TOPIC
    topics: tuple[str, ...] = ("stackmend",)
    priorities: tuple[str, ...] = ("info", "error")
    queue_name: str = "stackmend.events"
    bind_topics: tuple[str, ...] = ("versioned_notifications", "notifications")
    batch_size: int = 500
    batch_seconds: float = 0.05
    max_body_bytes: int = 1024 * 1024
    dead_body_bytes: int = 64 * 1024
    connect_timeout: float = 5.0
    answer_timeout: float = 15.0
    queue_wait: float = 1.0
    unacknowledged_seconds: float = 300.0
    conf: cfg.ConfigOpts | None = field(default=None, repr=False, compare=False)

    @property
    def prefetch(self) -> int:
        """The number of messages per queue that the broker sends before it waits for an acknowledgement."""
        return 2 * self.batch_size

    @property
    def queues(self) -> tuple[str, ...]:
        if self.queue_mode is QueueMode.BIND:
            return (self.queue_name,)
        return _keys(self.topics, self.priorities)

    @property
    def bindings(self) -> tuple[str, ...]:
        """The routing keys that bind stackmend's own queue; empty with ``queue_mode = topic``."""
        return _keys(self.bind_topics, self.priorities) if self.queue_mode is QueueMode.BIND else ()


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> BusSettings:
    bus = conf.bus
    return BusSettings(
        queue_mode=QueueMode(bus.queue_mode),
        topics=tuple(bus.topics),
        priorities=tuple(bus.priorities),
        queue_name=bus.queue_name,
        bind_topics=tuple(bus.bind_topics),
        batch_size=bus.batch_size,
        batch_seconds=bus.batch_seconds,
        max_body_bytes=bus.max_body_bytes,
        dead_body_bytes=bus.dead_body_bytes,
        connect_timeout=bus.connect_timeout,
        answer_timeout=bus.answer_timeout,
        queue_wait=bus.queue_wait,
        unacknowledged_seconds=bus.unacknowledged_seconds,
        conf=conf,
    )


def _keys(topics: tuple[str, ...], priorities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the routing keys ``<topic>.<priority>``; oslo.messaging's default queues have the same names."""
    return tuple(dict.fromkeys(f"{topic}.{priority}" for topic in topics for priority in priorities))
