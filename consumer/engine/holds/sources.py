from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from consumer.conf.holds import HoldSettings
from consumer.engine.holds import files, prometheus
from consumer.engine.holds.board import Board, Source
from handlers.base import HoldSources, Resources


def board(settings: HoldSettings, resources: Resources, others: Iterable[HoldSources]) -> Board:
    """Return a board of all configured sources; it has read none yet.

    :param others: functions that return the sources of services, such as Nova
    :raises cfg.Error: an option of a service is wrong
    """
    found = [*_ours(settings), *(Source(name, read) for one in others for name, read in one(resources))]
    return Board(found, settings.hold_seconds)


def _ours(settings: HoldSettings) -> Iterator[Source]:
    if settings.hold_file:
        yield Source("[engine] hold_file", partial(files.hold_file, Path(settings.hold_file)))
    if settings.hold_hosts_file:
        yield Source("[engine] hold_hosts_file", partial(files.hosts_file, Path(settings.hold_hosts_file)))
    for query in settings.hold_query:
        name = f"[engine] hold_query {query}"
        yield Source(name, partial(prometheus.holds, settings.hold_url or "", query))
