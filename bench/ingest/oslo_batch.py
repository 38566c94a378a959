"""The batch listener of oslo.messaging with an endpoint that does nothing: what an OpenStack service would use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import oslo_messaging
from oslo_config import cfg

from bench.ingest.job import EXCHANGE, Job
from bench.ingest.meter import Meter

#: Messages per call of the endpoint; what ceilometer's documentation advises.
BATCH = 100


class Endpoint:
    """Takes messages and does nothing with them."""

    def info(self, messages: Sequence[dict[str, Any]]) -> None:
        """Take a batch of priority "info"."""


def consume(job: Job, meter: Meter) -> None:
    """Drain the queue."""
    conf = cfg.ConfigOpts()
    conf([], project="bench", default_config_files=[], default_config_dirs=[])
    # It declares the queue again, and must do so as it was declared.
    kind = "rabbit_quorum_queue" if job.quorum else "amqp_durable_queues"
    transport = oslo_messaging.get_notification_transport(conf, f"{job.transport_url}?{kind}=true")
    listener = oslo_messaging.get_batch_notification_listener(
        transport,
        [oslo_messaging.Target(exchange=EXCHANGE, topic=job.topic)],
        [Endpoint()],
        executor="threading",
        batch_size=BATCH,
        batch_timeout=1,
    )
    listener.start()
    meter.done.wait()
    listener.stop()
    listener.wait()
    transport.cleanup()
