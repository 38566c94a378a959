"""stackmend's options for oslo.config's generator and validator (entry point ``oslo.config.opts``)."""

from __future__ import annotations

from collections.abc import Iterable

from oslo_config import cfg

from consumer import plugins
from consumer.conf import bus, engine, journal, status, tasks, tracing, webhooks
from consumer.messaging import oslo_messaging


def list_opts() -> list[tuple[cfg.OptGroup | str | None, list[cfg.Opt]]]:
    found: dict[str, list[cfg.Opt]] = {}
    for group, opts in plugins.options().items():
        _add(found, group, opts)
    for handler in plugins.handlers():
        _add(found, handler.group, tasks.options(handler))
        for group, opts in handler.options().items():
            _add(found, group, opts)
    ours: list[tuple[cfg.OptGroup | str | None, list[cfg.Opt]]] = [
        (module.GROUP, list(module.OPTS)) for module in (journal, bus, engine, status, tracing, webhooks)
    ]
    ours.append((webhooks.EXAMPLE, list(webhooks.SINK_OPTS)))
    rabbit = [entry for entry in oslo_messaging.opts.list_opts() if entry[0] == "oslo_messaging_rabbit"]
    return [*ours, *sorted(found.items()), *rabbit]


def _add(found: dict[str, list[cfg.Opt]], group: str, opts: Iterable[cfg.Opt]) -> None:
    there = {opt.dest for opt in found.setdefault(group, [])}
    found[group] += [opt for opt in opts if opt.dest not in there]
