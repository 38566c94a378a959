from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from consumer.cli.base import Command, Lister, SpanCell, add_by, operator
from consumer.cli.errors import CommandError
from consumer.conf import tasks as task_conf
from consumer.journal import controls, hinting, history, replicas
from consumer.journal.acts import Act, recorder
from consumer.journal.controls import Control
from consumer.journal.database import Database, now
from consumer.journal.work import SWEEP, Hint, Priority
from consumer.text import plural
from handlers.base import Handler, Key, Mode

#: Seconds without a beat after which a daemon counts as dead.
_SILENT = 60.0


class HandlerList(Lister):
    """List the handlers of configured services: mode, timing, state, last sweep, heals left in this hour."""

    titles = (
        "Service", "Name", "Mode", "Interval", "Window", "State", "Last sweep", "Found", "Of", "Heals left",
    )  # fmt: skip
    more_titles = ("Group", "Title", "Sweep seconds", "Triggers")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        database = self.session.database
        known, clock = controls.read(database), database.transact(now)
        alive = [one for one in replicas.listing(database) if clock - one.beat_at < _silence(self.session.engine)]
        if not alive:
            self.remark("no daemon runs on this journal")
        running = "running" if alive else "no daemon"
        listed = sorted(self.session.classes(), key=lambda handler: (handler.service, handler.name))
        return [self._row(database, handler, known, clock, running) for handler in listed]

    def _row(
        self, database: Database, handler: type[Handler], known: dict[str, Control], clock: float, running: str
    ) -> list[Any]:
        settings = task_conf.settings(self.session.conf, handler)
        control = known.get(handler.name, Control(handler.name))
        ago = None if control.swept_at is None else max(0.0, clock - control.swept_at)
        return [
            handler.service,
            handler.name,
            settings.mode,
            SpanCell(settings.interval) if settings.interval else None,
            str(settings.window),
            state(settings.mode, control, running),
            SpanCell(ago),
            control.sweep_found,
            control.sweep_population,
            history.budget_left(database, handler.name, settings.heals_per_hour),
            handler.group,
            handler.title,
            None if control.sweep_seconds is None else round(control.sweep_seconds, 3),
            sorted({trigger.event for trigger in handler.triggers}),
        ]


def _silence(engine: Any) -> float:
    return max(_SILENT, 2 * float(engine.lease_seconds))


def state(mode: Mode, control: Control, running: str = "running") -> str:
    """Return a handler's state in words: paused or stopped (with the reason), or off; otherwise the argument ``running``."""
    if control.paused:
        return f"paused: {control.reason}" if control.reason else "paused"
    if control.broken:
        return f"stopped: {control.reason}"
    return "off" if mode is Mode.OFF else running


class HandlerPause(Command):
    """Stop handlers on every replica, within seconds, until 'handler resume'.

    Running heals finish their current step. The daemon still stores events, so it misses none.
    """

    example = "example:\n  %(prog)s handler pause audit_allocations --reason 'restoring placement'"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("names", nargs="+", metavar="NAME", help="Handlers to stop.")
        parser.add_argument(
            "--reason", default="", metavar="TEXT", help="The reason, shown by 'handler list' with your name."
        )
        add_by(parser)
        return parser

    def named_handlers(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        return list(parsed_args.names)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        names = [handler.name for handler in self.session.classes(parsed_args.names)]
        database = self.session.database
        controls.ensure(database, names)
        who, why = operator(parsed_args), parsed_args.reason
        acts = [
            Act(
                "handler pause",
                name,
                Key("handler", name),
                f"paused {name}{f': {why}' if why else ''}",
                undo=f"stackmend handler resume {name}",
            )
            for name in names
        ]
        controls.pause(database, names, f"{why}, by {who}" if why else f"by {who}", recorder(who, *acts))
        self.write_line(f"paused: {', '.join(names)}")


class HandlerResume(Command):
    """Let handlers run again after a pause, or after the breaker or an older copy of a database stopped them.

    Handlers sweep at once, unless their mode is off or their window is closed. If a database has become an older copy since the
    last check, the command resumes no handler and gives the reason. Run the command again to accept that database.
    """

    example = "example:\n  %(prog)s handler resume audit_allocations"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("names", nargs="+", metavar="NAME", help="Handlers to resume.")
        add_by(parser)
        return parser

    def named_handlers(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        return list(parsed_args.names)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        classes = self.session.classes(parsed_args.names)
        names = [handler.name for handler in classes]
        on = [one.name for one in classes if task_conf.settings(self.session.conf, one).mode is not Mode.OFF]
        database = self.session.database
        controls.ensure(database, names)
        if reasons := self.session.compare_watermarks():
            raise CommandError(f"nothing is resumed: {'; '.join(reasons)}. Run this again to accept the database")
        acts = [Act("handler resume", name, Key("handler", name), f"resumed {name}") for name in names]
        controls.resume(database, names, recorder(operator(parsed_args), *acts))
        hinting.enqueue(database, [Hint(name, Key(SWEEP, name), Priority.OPERATOR, "operator") for name in on])
        self.write_line(f"resumed: {', '.join(names)}; {plural(len(on), 'sweep')} due now")
        for name in sorted(set(names) - set(on)):
            self.remark(f"{name} stays off: its mode in the configuration is off")
