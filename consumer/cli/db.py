"""``db upgrade`` and ``db version``: the journal's schema."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from consumer.cli.base import Command, ShowOne, add_by, operator
from consumer.cli.errors import DRIFT
from consumer.journal import acts, migrations
from consumer.journal.acts import Act
from handlers.base import Key


class DbUpgrade(Command):
    """Upgrade the journal's schema. Daemons of the previous release may keep running, and the command may be repeated.

    An SQLite journal upgrades itself when a program opens it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_by(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with closing(self.session.unchecked_database()) as database:
            before, after = migrations.upgrade(database)
            if before != after:
                did = f"upgraded the journal from revision {before or 'none'} to {after}"
                acts.record(database, operator(parsed_args), Act("db upgrade", "db", Key("revision", after), did))
        self.write_line(
            f"the journal has revision {after}" + ("" if before == after else f"; before: {before or 'none'}")
        )


class DbVersion(ShowOne):
    """Show the revisions of the journal's schema and of this program. Exit code 2 if they differ."""

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        with closing(self.session.unchecked_database()) as database:
            current = migrations.current(database)
        if current != migrations.head():
            self.exit_code = DRIFT
            self.remark("run 'db upgrade'")
        return {"Journal": current, "Program": migrations.head()}
