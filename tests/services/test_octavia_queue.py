"""Octavia's queue on a real broker: the states that allow a change to a stuck load balancer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer
from oslo_config import cfg

from consumer.bus import probe
from consumer.conf import bus as bus_conf
from handlers.base import InFlight, Resources, Unavailable
from handlers.octavia import options
from handlers.octavia.work_queue import QUEUE, WorkQueue
from tests.servers.rabbitmq import RabbitMQ

VHOST = "octavia"


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Iterator[Connection]:
    """Return a connection to the virtual host of Octavia."""
    if VHOST not in rabbitmq.ctl("list_vhosts"):
        rabbitmq.add_vhost(VHOST)
    with Connection(rabbitmq.url(VHOST)) as connection:
        yield connection
        connection.default_channel.queue_delete(QUEUE)


def work_queue(url: str, folder: Path) -> WorkQueue:
    file = folder / "octavia.conf"
    file.write_text(
        f"[DEFAULT]\ntransport_url = {url}\n[task_flow]\njobboard_enabled = False\n"
        "[haproxy_amphora]\nconnection_max_retries = 9\n"
    )
    conf = cfg.ConfigOpts()
    bus_conf.register(conf)
    options.register(conf)
    conf([], default_config_files=[])
    conf.set_override("config_file", [str(file)], "octavia")
    return WorkQueue.from_resources(Resources(conf, probe.bus(conf)))


def test_it_is_idle_only_when_empty_and_consumed(broker: Connection, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    queue = work_queue(rabbitmq.transport_url(VHOST), tmp_path)
    with pytest.raises(Unavailable, match="no queue"):
        queue.prove_idle(0)
    assert QUEUE not in rabbitmq.ctl("list_queues", "-p", VHOST, "name"), "a passive declaration creates no queue"

    Queue(QUEUE, durable=False, channel=broker).declare()
    with pytest.raises(Unavailable, match="no worker consumes"):
        queue.prove_idle(0)
    with pytest.raises(Unavailable, match="no worker consumes"):
        queue.require_worker()

    broker.Producer().publish({"method": "failover_load_balancer"}, routing_key=QUEUE)
    with pytest.raises(InFlight, match="1 requests wait"):
        queue.prove_idle(0)

    with (
        broker.channel() as worker,
        Consumer(worker, [Queue(QUEUE, no_declare=True)], callbacks=[lambda body, message: message.ack()]),
    ):
        broker.drain_events(timeout=30)
        with pytest.raises(InFlight, match="had no worker lately"):
            queue.prove_idle(0)
        queue.require_worker()
        work_queue(rabbitmq.transport_url(VHOST), tmp_path).prove_idle(0)


def test_of_several_hosts_one_that_answers_is_enough(broker: Connection, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with_dead_host = rabbitmq.transport_url(VHOST).replace("rabbit://", "rabbit://user:secret@127.0.0.1:1,")
    Queue(QUEUE, durable=False, channel=broker).declare()
    with pytest.raises(Unavailable, match="no worker consumes"):
        work_queue(with_dead_host, tmp_path).prove_idle(0)


@pytest.mark.parametrize("url", ["rabbit://user:secret@127.0.0.1:1/", "rabbit://{user}:wrong-secret@{host}/octavia"])
def test_a_broker_that_refuses_the_credentials_proves_nothing_and_no_error_shows_a_secret(
    broker: Connection, rabbitmq: RabbitMQ, tmp_path: Path, url: str
) -> None:
    user, _at, host = rabbitmq.transport_url("").removeprefix("rabbit://").rstrip("/").rpartition("@")
    with pytest.raises(Unavailable, match="no host of the broker answers") as raised:
        work_queue(url.format(user=user.partition(":")[0], host=host), tmp_path).prove_idle(0)
    assert "secret" not in str(raised.value)


def test_no_error_shows_a_malformed_url(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="malformed") as raised:
        work_queue("rabbit://user:secret@host:port/", tmp_path).prove_idle(0)
    assert "secret" not in str(raised.value)
