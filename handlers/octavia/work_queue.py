"""Octavia's work queue: whether a request for a load balancer still waits, and whether anybody would take it.

A load balancer in PENDING_* may simply wait: while no worker runs, requests lie in the queue ``octavia_provisioning_v2``,
and are carried out when one returns. Changing such a load balancer makes two flows run at once, and that leaves it with two
amphorae. So before anything is done about it, the queue must be empty and somebody must consume it. RabbitMQ tells both in
the answer to a passive declaration, for which the rights of an ordinary user are enough, and which changes nothing.

What the queue cannot tell is a flow at work: Octavia takes the message off before it begins (``oslo_messaging/rpc/
server.py``). For that there are ages. And with a jobboard (``[task_flow] jobboard_enabled``) another worker resumes what
a dead one left, whenever it comes to it: then nothing here is proof.

The queue's name is a constant of Octavia's (``TOPIC_AMPHORA_V2`` in ``octavia/common/constants.py``); ``[oslo_messaging]
topic`` renamed only that of the provider before it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import KombuError
from oslo_config import types

from handlers.access import rabbit_options
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import InFlight, Resources, Unavailable
from handlers.octavia import options

QUEUE = "octavia_provisioning_v2"

#: seconds to connect, and to wait for an answer
_TIMEOUT = 5.0


class WorkQueue:
    """Octavia's queue on its own broker; safe to share between threads.

    :param brokers: arguments of ``kombu.Connection``, one per host of the broker; with the password
    :param refusal: why nothing can be proved by the queue; empty when it can
    """

    def __init__(self, brokers: tuple[Mapping[str, Any], ...], refusal: str = "") -> None:
        self._brokers = brokers
        self.refusal = refusal

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it from Octavia's files, which alone tell of a jobboard.

        :raises ConfigError: when their transport URL, or whether there is a jobboard, cannot be understood
        """
        files = options.files(resources.conf)
        if not files.files:
            return cls((), "whether Octavia's work queue is empty is not known: set [octavia] config_file")
        if _is_true(files.get("task_flow", "jobboard_enabled"), "[task_flow] jobboard_enabled", files):
            return cls((), "Octavia has a jobboard: another worker resumes what one that died has left")
        url = files.get("DEFAULT", "transport_url") or resources.conf[options.GROUP].transport_url
        if not url:
            return cls((), f"whether Octavia's work queue is empty is not known: {files} has no transport_url")
        return cls(_brokers(url, files))

    def prove_idle(self) -> None:
        """Return when no request waits and a worker would take one.

        :raises InFlight: when requests wait
        :raises Unavailable: when the broker does not answer, or no worker listens
        """
        messages, consumers = self._declared()
        if messages:
            raise InFlight(f"{messages} requests wait for Octavia's workers", 30.0)
        if not consumers:
            raise Unavailable(
                "octavia-worker", f"nobody consumes the queue {QUEUE}: requests are carried out when one does"
            )

    def _declared(self) -> tuple[int, int]:
        reason = self.refusal
        for broker in self._brokers:
            try:
                with Connection(**broker) as connection:  # type: ignore[no-untyped-call]
                    connection.connect()
                    errors: tuple[type[Exception], ...] = connection.channel_errors
                    return _ask(connection.default_channel.queue_declare, errors)
            except (OSError, KombuError, AMQPError) as error:
                # its text may hold what we sent
                reason = type(error).__name__
        raise Unavailable("octavia-broker", f"does not answer: {reason}")


def _is_true(value: str | None, name: str, files: ServiceFiles) -> bool:
    """Read a value as Octavia's own configuration does, which takes no other word for false."""
    try:
        return bool(types.Boolean()(value or "false"))
    except ValueError:
        raise ConfigError(f"{files}: {name} = {value} is neither true nor false") from None


def _ask(declare: Callable[..., Any], errors: tuple[type[Exception], ...]) -> tuple[int, int]:
    try:
        answer = declare(queue=QUEUE, passive=True)
    except errors as error:
        raise Unavailable("octavia-worker", f"its queue cannot be asked: {getattr(error, 'reply_text', '')}") from error
    return answer.message_count, answer.consumer_count


def _brokers(url: str, files: ServiceFiles) -> tuple[Mapping[str, Any], ...]:
    """Read ``rabbit://user:password@host:port,user:password@host:port/virtual_host?ssl=1``, as oslo.messaging does."""
    try:
        parsed = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parsed.query).items()}
        hosts = [urlsplit(f"//{host}") for host in parsed.netloc.split(",")]
        return tuple(
            {
                "transport": "pyamqp",
                "hostname": host.hostname or "localhost",
                "port": host.port or 5672,
                "userid": unquote(host.username or ""),
                "password": unquote(host.password or ""),
                "virtual_host": unquote(parsed.path[1:]) or "/",
                "ssl": _tls(host.hostname or "localhost", query, files),
                "connect_timeout": _TIMEOUT,
                "transport_options": {"read_timeout": _TIMEOUT, "write_timeout": _TIMEOUT},
            }
            for host in hosts
        )
    except ValueError:
        # its text quotes what it could not read, and the password may be part of that
        raise ConfigError(
            f"the transport_url of {files} is malformed; write rabbit://user:password@host:5672/"
        ) from None


def _tls(hostname: str, query: Mapping[str, str], files: ServiceFiles) -> Mapping[str, Any] | bool:
    """How Octavia itself speaks TLS with its broker; options in the URL win, as for oslo.messaging."""

    def option(name: str) -> str | None:
        return query.get(name) or files.get(rabbit_options.GROUP, name)

    if not _is_true(option("ssl"), f"[{rabbit_options.GROUP}] ssl, or ssl in transport_url,", files):
        return False
    names = {"ca_certs": "ssl_ca_file", "certfile": "ssl_cert_file", "keyfile": "ssl_key_file"}
    files_of = {name: option(of) for name, of in names.items() if option(of)}
    required = {"cert_reqs": ssl.CERT_REQUIRED} if "ca_certs" in files_of else {}
    return {"server_hostname": hostname, **files_of, **required}
