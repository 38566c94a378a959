"""The brokers on which Nova publishes: the API's and every cell's own.

Services publish to the broker of their cell, unless ``[oslo_messaging_notifications] transport_url`` sends them to a
shared one; what the services of a cell are told there cannot be seen from outside, so each cell's broker is listened to
as well. One that nobody publishes to costs an idle connection. TLS is spoken as Nova's files say, with cells' brokers too.
"""

from __future__ import annotations

from collections.abc import Iterable

from handlers.access.rabbit_options import tls_options
from handlers.base import Broker, Resources, Unavailable
from handlers.nova import options
from handlers.nova.database import NovaDatabases

EXCHANGES = ("nova",)


def nova_brokers(resources: Resources) -> Iterable[Broker]:
    """Yield the brokers, each once, however many cells share it; none when ``[nova]`` says nothing.

    :raises Unavailable: when ``nova_api`` does not answer, or the URL of a cell's broker cannot be told; after those that
        are known were yielded
    :raises ConfigError: when Nova's files cannot be used
    """
    conf = resources.conf
    options.register(conf)
    seen: set[str] = set()
    url, tls = options.notification_url(conf), tls_options(options.files(conf))
    if url:
        seen.add(_same(url))
        yield Broker("nova", url, EXCHANGES, tls)
    if not options.has_databases(conf):
        return
    databases = resources.get(NovaDatabases.from_resources)
    unknown: Unavailable | None = None
    for cell in databases.host_cells():
        try:
            url = databases.transport(cell)
        except Unavailable as error:
            unknown = error
            continue
        if not url or url.startswith("none:") or _same(url) in seen:
            continue
        seen.add(_same(url))
        yield Broker(cell.label, url, EXCHANGES, tls)
    if unknown is not None:
        raise unknown


def _same(url: str) -> str:
    """Return what is equal for two spellings of one URL: the default virtual host may be left out."""
    return url.rstrip("/")
