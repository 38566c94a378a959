"""Holds from Nova: hosts whose nova-compute is disabled with a reason that matches ``[nova] hold_disabled_reason``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import Hold, Resources
from handlers.nova import options, tables
from handlers.nova.database import NovaDatabases


def nova_holds(resources: Resources) -> Iterator[tuple[str, Callable[[], Iterable[Hold]]]]:
    """Yield the option's name, ``[nova] hold_disabled_reason``, with a function that reads the holds; nothing if unset."""
    options.register(resources.conf)
    pattern = resources.conf[options.GROUP].hold_disabled_reason
    if pattern:
        yield "[nova] hold_disabled_reason", partial(disabled_hosts, resources, re.compile(pattern))


def disabled_hosts(resources: Resources, pattern: re.Pattern[str]) -> list[Hold]:
    """Return a hold for each host whose nova-compute is disabled with a reason that matches ``pattern``.

    :raises Unavailable: nova_api or any cell does not answer
    """
    databases = resources.get(NovaDatabases.from_resources)
    found = databases.run_in_all(databases.host_cells(), _disabled)
    return [
        Hold(f"host:{host}", f"nova-compute is disabled: {reason}")
        for rows in found.values()
        for host, reason in rows
        if pattern.search(reason)
    ]


def _disabled(connection: Connection) -> list[tuple[str, str]]:
    services = tables.services.c
    query = (
        sa.select(services.host, services.disabled_reason)
        .where(services.deleted == 0, services.binary == "nova-compute", services.disabled.is_(True))
        .where(services.disabled_reason.is_not(None))
        .order_by(services.host)
    )
    return [(host, reason) for host, reason in connection.execute(query)]
