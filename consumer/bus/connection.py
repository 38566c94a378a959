"""Opens a kombu connection from a transport URL of oslo.messaging.

``[oslo_messaging_rabbit]`` and the URL's query (``?ssl=1``) configure the connection by the rules of oslo.messaging:
``impl_rabbit.Connection.__init__`` (URL, login), ``_drivers.common.ConfigOptsProxy`` (query).

Errors must not contain passwords. Libraries quote text that they cannot parse, so this module replaces their errors.
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
from urllib.parse import urlsplit

from kombu.connection import Connection
from kombu.exceptions import ChannelError, KombuError
from oslo_config import cfg
from oslo_utils import netutils

from consumer.bus import tls
from consumer.bus.tls import RABBIT
from consumer.bus.wire import Transport
from consumer.conf.bus import BusSettings, UnusableURL
from consumer.messaging import oslo_messaging
from consumer.text import redacted

#: In-process brokers without hosts, for tests and the demonstration.
_IN_MEMORY = frozenset({"memory", "kombu+memory"})
_RABBITMQ = frozenset({"rabbit", "kombu", "kombu+amqp", "kombu+pyamqp"})

#: Errors of an open connection.
LOST: tuple[type[Exception], ...] = (
    OSError,
    KombuError,
    *Transport.connection_errors,
    *Transport.recoverable_connection_errors,
    *Transport.channel_errors,
)

#: Errors while connecting. ssl raises ValueError for contradictory settings.
_NO_ANSWER: tuple[type[Exception], ...] = (*LOST, ValueError)

#: Names and values, as text.
Options = Sequence[tuple[str, str]]


class NoBroker(UnusableURL):
    """The transport URL is ``none:///``: the operator wants no broker."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host of a broker.

    :param name: host and port
    :param arguments: for ``kombu.Connection``; these arguments can contain the password
    """

    name: str
    arguments: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to connect to a broker, and how to retry. Times are in seconds.

    :param retry_first: wait after the first failure
    :param retry_step: increase of each further wait
    :param retry_most: longest wait
    """

    endpoints: tuple[Endpoint, ...]
    retry_first: float = 1.0
    retry_step: float = 2.0
    retry_most: float = 30.0


class Link:
    """An open connection to one host of the broker, for one thread.

    The constructor and every method except ``close`` and ``drop`` can raise the errors in :data:`LOST`.
    """

    def __init__(self, endpoint: Endpoint, settings: BusSettings) -> None:
        self.name = endpoint.name
        # Only the transport is used, because nothing can interrupt a wait inside kombu's Connection.
        self._transport = Connection(**endpoint.arguments).transport
        self._connection = self._transport.establish_connection()
        #: whether one acknowledgement can cover all earlier messages
        self.acks_multiple = self._transport.driver_type == "amqp"
        properties = getattr(self._connection, "server_properties", {})
        #: the broker's version; empty if unknown
        self.version = str(properties.get("version", ""))
        self.wait_for_answers(settings.answer_timeout)

    def wait_for_answers(self, seconds: float) -> None:
        """Limit the wait for each answer of the broker; by default, py-amqp waits for ever."""
        wire = getattr(self._connection, "sock", None)
        if wire is not None:
            wire.settimeout(seconds)

    def channel(self) -> Any:
        """Open a channel that does not decode message bodies."""
        channel = self._transport.create_channel(self._connection)
        channel.auto_decode = False
        return channel

    @contextmanager
    def brief_channel(self) -> Iterator[Any]:
        """Open a channel for a ``with`` block. An error of the broker then closes this channel and no other."""
        channel = self.channel()
        try:
            yield channel
        finally:
            with suppress(*LOST):
                channel.close()

    def drain(self, timeout: float) -> bool:
        try:
            self._transport.drain_events(self._connection, timeout=timeout)
        except TimeoutError as error:
            if error.errno is not None:  # ETIMEDOUT of the network, not the end of ``timeout``
                raise
            return False
        except AttributeError as error:  # py-amqp after a closed connection; kombu's transport handles the same
            raise ConnectionError("the connection is gone") from error
        return True

    def beat(self) -> None:
        """Send a heartbeat if one is due. Raise an error if the broker's heartbeats are missing. Call this once a second."""
        self._transport.heartbeat_check(self._connection, rate=2)

    def close(self) -> None:
        """Close the connection after a handshake, so that the broker first reads all sent data. Ignore errors."""
        with suppress(*LOST, AttributeError):
            self._transport.close_connection(self._connection)

    def drop(self) -> None:
        """Close the connection without a handshake, which a silent broker would not answer."""
        with suppress(*LOST, AttributeError):
            collect = getattr(self._connection, "collect", None)
            if collect is not None:
                collect()
            else:
                self._transport.close_connection(self._connection)


def plan(url: str, settings: BusSettings, options: Options = ()) -> Plan:
    """Return the plan for a transport URL. The hosts get a random order, as in oslo.messaging.

    :param options: the publishers' ``[oslo_messaging_rabbit]``; stackmend's configuration and the URL's query override them
    :raises NoBroker: the URL is ``none:///``
    :raises UnusableURL: the URL is malformed or for another kind of broker, or an option is wrong
    """
    conf = settings.conf if settings.conf is not None else _defaults()
    parsed = _parsed(conf, url)
    if parsed.transport == "none":
        raise NoBroker(
            "the transport URL is none:///, which means no broker; for notifications, write "
            "rabbit://user:password@host:5672/virtual_host"
        )
    if parsed.transport in _IN_MEMORY:
        return Plan((Endpoint("memory", MappingProxyType({"hostname": "memory://", "transport_options": _POLLING})),))
    if parsed.transport not in _RABBITMQ:
        raise UnusableURL(
            f"stackmend cannot read the transport of the URL{_scheme(url)}; "
            "it reads notifications from RabbitMQ: rabbit://user:password@host:5672/virtual_host"
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
    """Connect to the first host that answers.

    :raises ConnectionError: no host answers; the error's text has the failure of each host
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
    link = connect(plan(url, settings, options).endpoints, settings)
    try:
        yield link
    finally:
        link.close()


def is_absent(error: ChannelError) -> bool:
    """Return whether a passive declaration failed because the queue or exchange does not exist."""
    return str(error.reply_code) == "404"


def reason(error: BaseException) -> str:
    """Return an error's text, shortened and with URL passwords masked."""
    text = str(error) or type(error).__name__
    return " ".join(redacted(text).split())[:600]


#: kombu polls the broker in memory, by default once a second, which would slow every test.
_POLLING = MappingProxyType({"polling_interval": 0.01})


def _defaults() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], project="stackmend", default_config_files=[], default_config_dirs=[])
    return conf


def _parsed(conf: cfg.ConfigOpts, url: str) -> oslo_messaging.TransportURL:
    try:
        parsed = oslo_messaging.TransportURL.parse(conf, url)
        cut = _cuts_a_login(url, parsed.hosts)
    except Exception:
        # The libraries quote the text that they cannot parse, which may be the password.
        cut = True
    if cut:
        raise UnusableURL(
            f"the transport URL{_scheme(url)} is malformed; write rabbit://user:password@host:5672/virtual_host, "
            "and encode every character of user and password as %nn, except letters, digits and &=$-_.+!*()"
        )
    return parsed


def _cuts_a_login(url: str, hosts: Sequence[oslo_messaging.TransportHost]) -> bool:
    """Return whether an unescaped ``/``, ``?`` or ``#`` in a user or password ends the URL's hosts too early."""
    parts = urlsplit(url)
    if "@" in parts.query + parts.fragment:
        return True
    return "@" in parts.path and any(host.username is None for host in hosts)


def _scheme(url: str) -> str:
    """Return the scheme of an unreadable URL. All other parts can contain a password."""
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url)
    return f" {found[0]}..." if found else ""


def _options(conf: cfg.ConfigOpts, query: Mapping[str, str], url: str, theirs: Options) -> Mapping[str, Any]:
    opts = {opt.dest: opt for group, opts in oslo_messaging.opts.list_opts() if group == RABBIT for opt in opts}
    conf.register_opts(list(opts.values()), group=RABBIT)
    values = {name: conf[RABBIT][name] for name in opts}
    for name, text in theirs:
        if name in opts and not _is_set(conf, name):
            values[name] = _value(opts[name], text, f"[{RABBIT}] {name} of the broker's publishers")
    for name, text in query.items():
        if name not in opts:
            raise UnusableURL(
                f"the query of the transport URL{_scheme(url)} contains {name!r}, which is not an option of [{RABBIT}]"
            )
        values[name] = _value(opts[name], text, f"{name!r} in the query of the transport URL{_scheme(url)}")
    return values


def _is_set(conf: cfg.ConfigOpts, name: str) -> bool:
    place = conf.get_location(name, RABBIT)
    return place is not None and place.location is not cfg.Locations.opt_default


def _value(opt: cfg.Opt, text: str, where: str) -> Any:
    try:
        return opt.type(text)
    except ValueError:
        raise UnusableURL(f"{where} has an invalid value") from None


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
        # As oslo.messaging and kombu do: a missing or empty path means the default virtual host.
        "virtual_host": vhost or "/",
        "ssl": tls.parameters(host.hostname, options),
        "login_method": options["rabbit_login_method"],
        "heartbeat": options["heartbeat_timeout_threshold"],
        "connect_timeout": settings.connect_timeout,
        "transport_options": {
            "confirm_publish": True,
            "max_body": settings.max_body_bytes + 1,
            # py-amqp's default of one second would drop the connection when a busy broker is slow to acknowledge bytes.
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
