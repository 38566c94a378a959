"""Makes the :class:`~handlers.base.Bus` through which handlers and checks read RabbitMQ."""

from __future__ import annotations

from functools import partial

from oslo_config import cfg

from consumer.conf import bus as bus_conf
from consumer.conf.bus import QueueMode
from handlers.base import Broker, Bus, QueueReader


def bus(conf: cfg.ConfigOpts) -> Bus:
    settings = bus_conf.settings(conf)

    def queues(broker: Broker) -> QueueReader:
        # Every command makes a Bus, but few ask a broker: importing kombu and oslo.messaging costs more than most commands.
        from consumer.bus import depth

        return partial(depth.queue_depth, broker, settings)

    if settings.queue_mode is QueueMode.BIND:
        return Bus(tuple(conf.bus.bind_topics), "[bus] bind_topics", queues)
    return Bus(tuple(conf.bus.topics), "[bus] topics", queues)
