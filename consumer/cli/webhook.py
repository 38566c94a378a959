from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from consumer.cli.base import Command, Lister, SpanCell
from consumer.cli.errors import ERROR, OK, CommandError
from consumer.conf import webhooks
from consumer.conf.webhooks import Sink
from consumer.engine.webhooks import sending
from consumer.engine.webhooks.message import SAMPLE, Renderer
from consumer.journal import deliveries


class WebhookList(Lister):
    """List the configured sinks (receivers of webhooks), and the messages that wait for each. No URL is shown."""

    titles = ("Name", "Events", "Waiting", "Oldest", "Last error")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        sinks = webhooks.settings(self.session.conf).sinks
        waiting = {one.sink: one for one in deliveries.waiting(self.session.database)}
        if not sinks:
            self.remark("no sink is configured; see [webhooks] enabled")
        for sink in sinks:
            found = waiting.get(sink.name)
            yield (
                sink.name,
                ", ".join(sink.events),
                found.messages if found else 0,
                SpanCell(round(found.oldest, 1)) if found else None,
                found.error if found else "",
            )


class WebhookTest(Command):
    """Send one sample message to a sink now, and print the result. Exit code 1 if the receiver does not accept it."""

    example = "example:\n  %(prog)s webhook test slack"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="Name in 'webhook list'.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        sink = self._sink(parsed_args.name)
        body = Renderer(sink.template).body(SAMPLE, SAMPLE.outcome)
        attempt = sending.post(sink, f"stackmend-test-{uuid.uuid4().hex[:8]}", body)
        self.write_line(f"{sink.name}: {attempt.error or 'accepted'}")
        return ERROR if attempt.error else OK

    def _sink(self, name: str) -> Sink:
        sinks = {sink.name: sink for sink in webhooks.settings(self.session.conf).sinks}
        if name not in sinks:
            raise CommandError(f"no sink has the name {name!r}; the sinks are: {', '.join(sinks) or 'none'}")
        return sinks[name]
