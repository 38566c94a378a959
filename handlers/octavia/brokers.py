from __future__ import annotations

from collections.abc import Iterable

from handlers.access.rabbit_options import tls_options
from handlers.base import Broker, Resources
from handlers.octavia import options


def octavia_brokers(resources: Resources) -> Iterable[Broker]:
    """Yield the broker of Octavia's notifications, if ``[octavia]`` or ``octavia.conf`` names one.

    :raises ConfigError: a configuration file of Octavia is malformed
    """
    options.register(resources.conf)
    url = options.notification_url(resources.conf)
    if url:
        files = options.files(resources.conf)
        exchange = files.get("DEFAULT", "control_exchange") or "octavia"
        yield Broker("octavia", url, (exchange,), tls_options(files))
