"""How to reach a broker: from an oslo.messaging transport URL to a kombu connection.

Operators already describe their brokers with ``transport_url`` and ``[oslo_messaging_rabbit]``, and Nova writes the same
URLs into its cell mappings, with options of that group in the query (``?ssl=1``). The translation follows
``oslo_messaging._drivers.impl_rabbit.Connection.__init__`` (URL, login, TLS) and ``_drivers.common.ConfigOptsProxy``
(options in the query); what it reads is public: ``TransportURL`` and ``opts.list_opts``.

A transport URL holds a password. No text that leaves this module contains one: errors of the libraries that quote what
they could not parse are replaced, not passed on.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kombu.connection import Connection
from kombu.exceptions import ChannelError, KombuError
from oslo_config import cfg
from oslo_utils import netutils

from consumer.bus import tls
from consumer.bus.tls import RABBIT
from consumer.bus.wire import Transport
from consumer.conf.bus import BusSettings, UnusableURL
from consumer.messaging import oslo_messaging

#: Brokers inside the process, without hosts: for tests and the demonstration.
_IN_MEMORY = frozenset({"memory", "kombu+memory"})
_RABBITMQ = frozenset({"rabbit", "kombu", "kombu+amqp", "kombu+pyamqp"})

#: What can go wrong between us and a broker, by itself or because it said so.
LOST: tuple[type[Exception], ...] = (
    OSError,
    KombuError,
    *Transport.connection_errors,
    *Transport.recoverable_connection_errors,
    *Transport.channel_errors,
)

#: ... and before there is a connection: ssl raises ValueError for settings that contradict each other.
_NO_ANSWER: tuple[type[Exception], ...] = (*LOST, ValueError)

#: Names and values, as text.
Options = Sequence[tuple[str, str]]


class NoBroker(UnusableURL):
    """This transport URL says on purpose that there is no broker (``none:///``)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host of a broker, and how to talk to it.

    :param name: host and port, for logs
    :param arguments: of ``kombu.Connection``; with the password
    """

    name: str
    arguments: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to get and keep a connection to a broker.

    :param endpoints: its hosts, in the order in which to try them
    :param retry_first: seconds to wait when none of them answered
    :param retry_step: how much longer to wait each further time
    :param retry_most: the longest wait
    """

    endpoints: tuple[Endpoint, ...]
    retry_first: float = 1.0
    retry_step: float = 2.0
    retry_most: float = 30.0


class Link:
    """An open connection to one host. Belongs to one thread.

    kombu's own Connection object retries and waits inside its calls, where nothing can stop it, so it serves as a
    description only, and its transport does the work.

    :raises LOST: by the constructor and every method but ``close``; the text has no secrets in it
    """

    def __init__(self, endpoint: Endpoint, settings: BusSettings) -> None:
        self.name = endpoint.name
        self._transport = Connection(**endpoint.arguments).transport  # type: ignore[no-untyped-call]
        self._connection = self._transport.establish_connection()
        #: whether one acknowledgement may stand for all messages before it
        self.acks_multiple = self._transport.driver_type == "amqp"
        self.wait_for_answers(settings.answer_timeout)

    def wait_for_answers(self, seconds: float) -> None:
        """Set how long a request may take; py-amqp itself waits for a broker that has gone silent without end."""
        wire = getattr(self._connection, "sock", None)
        if wire is not None:
            wire.settimeout(seconds)

    def channel(self) -> Any:
        """Open a channel that leaves message bodies as they are."""
        channel = self._transport.create_channel(self._connection)
        channel.auto_decode = False
        return channel

    @contextmanager
    def brief_channel(self) -> Iterator[Any]:
        """Open a channel for one question: the answer "no" closes it, and must not close the one that consumes."""
        channel = self.channel()
        try:
            yield channel
        finally:
            with suppress(*LOST):
                channel.close()

    def drain(self, timeout: float) -> bool:
        """Wait for something to arrive and hand it to whom it concerns; False if nothing did in time."""
        try:
            self._transport.drain_events(self._connection, timeout=timeout)
        except TimeoutError as error:
            if error.errno is not None:  # the network's verdict, not the end of our patience
                raise
            return False
        except (
            AttributeError
        ) as error:  # py-amqp's way to say that the connection was torn down, says kombu's transport
            raise ConnectionError("the connection is gone") from error
        return True

    def beat(self) -> None:
        """Send a heartbeat if one is due, and notice that the broker sends none; call it about once a second."""
        self._transport.heartbeat_check(self._connection, rate=2)

    def close(self) -> None:
        """Take leave of the broker; what was sent before has then arrived."""
        with suppress(*LOST, AttributeError):
            self._transport.close_connection(self._connection)

    def drop(self) -> None:
        """Close without a word, because nobody is there to hear it."""
        with suppress(*LOST, AttributeError):
            collect = getattr(self._connection, "collect", None)
            if collect is not None:
                collect()
            else:
                self._transport.close_connection(self._connection)


def redacted(url: str) -> str:
    """Return a transport URL in which ``***`` stands for every password, also when the URL is malformed."""
    return re.sub(r"(^(?![\w+.-]*://)|//|,)([^:@/,]*):[^@]*@(?:[^@,/]*@)*", r"\1\2:***@", url)


def plan(url: str, settings: BusSettings, options: Options = ()) -> Plan:
    """Read a transport URL. The hosts get a random order, as in oslo.messaging.

    :param options: of ``[oslo_messaging_rabbit]``, as the publishers have them; what our own configuration sets, and what
        the URL's query says, wins
    :raises NoBroker: for ``none:///``
    :raises UnusableURL: for anything else that is not a URL of RabbitMQ or of the broker in memory
    """
    conf = settings.conf if settings.conf is not None else _defaults()
    parsed = _parsed(conf, url)
    if parsed.transport == "none":
        raise NoBroker("the transport URL none:/// says that there is no broker")
    if parsed.transport in _IN_MEMORY:
        return Plan((Endpoint("memory", MappingProxyType({"hostname": "memory://", "transport_options": _POLLING})),))
    if parsed.transport not in _RABBITMQ:
        raise UnusableURL(
            f"the transport of the URL {_end(url)} is not one that can be read; "
            "notifications are read from RabbitMQ: rabbit://user:password@host:5672/virtual_host"
        )
    values = _options(conf, parsed.query, url, options)
    hosts = parsed.hosts or [oslo_messaging.TransportHost("localhost", username="guest", password="guest")]  # noqa: S106
    found = [_endpoint(host, parsed.virtual_host, values, settings) for host in hosts]
    return Plan(
        endpoints=tuple(random.sample(found, len(found))),
        retry_first=values["rabbit_retry_interval"],
        retry_step=values["rabbit_retry_backoff"],
        retry_most=values["rabbit_interval_max"],
    )


def connect(endpoints: tuple[Endpoint, ...], settings: BusSettings) -> Link:
    """Open a connection to the first host that answers.

    :raises ConnectionError: when none does; the text says for each host why
    """
    reasons = []
    for endpoint in endpoints:
        try:
            return Link(endpoint, settings)
        except _NO_ANSWER as error:
            reasons.append(f"{endpoint.name}: {reason(error)}{tls.advice(error, endpoint.arguments.get('ssl', False))}")
    raise ConnectionError("no host of the broker answers: " + "; ".join(reasons))


@contextmanager
def opened(url: str, settings: BusSettings, options: Options = ()) -> Iterator[Link]:
    """Open a connection for a short piece of work.

    :raises UnusableURL: see :func:`plan`
    :raises ConnectionError: when no host answers
    """
    link = connect(plan(url, settings, options).endpoints, settings)
    try:
        yield link
    finally:
        link.close()


def _end(url: str) -> str:
    """Return as much of a URL that may be malformed as holds no password in any reading: what follows the last ``@``."""
    return f"...@{url.rpartition('@')[2]}" if "@" in url else "(without user and password)"


def is_absent(error: ChannelError) -> bool:
    """Tell whether a passive declaration was refused because there is no such queue or exchange."""
    return str(error.reply_code) == "404"


def reason(error: BaseException) -> str:
    """Return an error as half a sentence."""
    text = str(error) or type(error).__name__
    return " ".join(redacted(text).split())[:600]


#: The broker in memory is polled; kombu's default of a second would show in every test.
_POLLING = MappingProxyType({"polling_interval": 0.01})


def _defaults() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], project="stackmend", default_config_files=[], default_config_dirs=[])
    return conf


def _parsed(conf: cfg.ConfigOpts, url: str) -> oslo_messaging.TransportURL:
    try:
        parsed = oslo_messaging.TransportURL.parse(conf, url)
    except Exception:
        # The libraries quote what they cannot read, and the password may be the very part of it.
        raise UnusableURL(
            f"the transport URL {_end(url)} is malformed; write rabbit://user:password@host:5672/virtual_host, "
            "with every character of user and password that is not a letter, a digit or one of &=$-_.+!*() as %nn"
        ) from None
    return parsed


def _options(conf: cfg.ConfigOpts, query: Mapping[str, str], url: str, theirs: Options) -> Mapping[str, Any]:
    """Return ``[oslo_messaging_rabbit]``: the publishers', overridden by ours, overridden by what the URL's query says."""
    opts = {opt.dest: opt for group, opts in oslo_messaging.opts.list_opts() if group == RABBIT for opt in opts}
    conf.register_opts(list(opts.values()), group=RABBIT)
    values = {name: conf[RABBIT][name] for name in opts}
    for name, text in theirs:
        if name in opts and not _is_set(conf, name):
            values[name] = _value(opts[name], text, f"[{RABBIT}] {name} of the broker's publishers")
    for name, text in query.items():
        if name not in opts:
            raise UnusableURL(
                f"the query of the transport URL {_end(url)} has {name!r}, which is no option of [{RABBIT}]"
            )
        values[name] = _value(opts[name], text, f"{name!r} in the query of the transport URL {_end(url)}")
    return values


def _is_set(conf: cfg.ConfigOpts, name: str) -> bool:
    place = conf.get_location(name, RABBIT)
    return place is not None and place.location is not cfg.Locations.opt_default


def _value(opt: cfg.Opt, text: str, where: str) -> Any:
    try:
        return opt.type(text)
    except ValueError:
        raise UnusableURL(f"{where} has a value that cannot be") from None


def _endpoint(
    host: oslo_messaging.TransportHost, vhost: str | None, options: Mapping[str, Any], settings: BusSettings
) -> Endpoint:
    port = host.port or 5672
    arguments = {
        "transport": Transport,
        "hostname": netutils.escape_ipv6(host.hostname) if host.hostname else "localhost",
        "port": port,
        "userid": host.username or "",
        "password": host.password or "",
        # As kombu reads the URL that oslo.messaging makes: no path and an empty one are the default virtual host.
        "virtual_host": vhost or "/",
        "ssl": tls.parameters(host.hostname, options),
        "login_method": options["rabbit_login_method"],
        "heartbeat": options["heartbeat_timeout_threshold"],
        "connect_timeout": settings.connect_timeout,
        "transport_options": {
            "confirm_publish": True,
            # py-amqp's own second would end the connection whenever a busy broker lets our bytes wait.
            "socket_settings": {socket.TCP_USER_TIMEOUT: int(settings.answer_timeout * 1000)},
            "client_properties": {
                "connection_name": f"stackmend:{socket.gethostname()}",
                "capabilities": {
                    "authentication_failure_close": True,
                    "connection.blocked": True,
                    "consumer_cancel_notify": True,
                },
            },
        },
    }
    return Endpoint(f"{host.hostname or 'localhost'}:{port}", MappingProxyType(arguments))
