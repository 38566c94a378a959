"""The brokers on which Nova publishes notifications: the broker in ``nova.conf`` and the brokers of the cells.

stackmend cannot read whether a cell's services publish notifications, so it connects to every cell's broker.
"""

from __future__ import annotations

from collections.abc import Iterable

from handlers.access.rabbit_options import tls_options
from handlers.base import Broker, Resources, Unavailable
from handlers.nova import options
from handlers.nova.database import NovaDatabases

#: the exchange where no file sets ``[DEFAULT] control_exchange`` (nova/config.py)
EXCHANGE = "nova"


def nova_brokers(resources: Resources) -> Iterable[Broker]:
    """Yield each broker once; yield nothing if ``[nova]`` is not configured.

    :raises Unavailable: ``nova_api`` does not answer, or a cell's URL cannot be completed; known brokers were yielded before
    :raises ConfigError: Nova's configuration files are unusable
    """
    conf = resources.conf
    options.register(conf)
    seen: set[str] = set()
    files = options.files(conf)
    url, tls = options.notification_url(conf), tls_options(files)
    exchanges = (files.get("DEFAULT", "control_exchange") or EXCHANGE,)
    if url:
        seen.add(_same(url))
        yield Broker("nova", url, exchanges, tls)
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
        yield Broker(cell.label, url, exchanges, tls)
    if unknown is not None:
        raise unknown


def _same(url: str) -> str:
    """Return a form of the URL that is the same for ``//host``, ``//host/`` and ``//host//``."""
    place, _, query = url.partition("?")
    return f"{place.rstrip('/')}?{query}"
