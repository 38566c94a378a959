"""``db upgrade`` and ``db version``: the journal's schema."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from consumer.cli.base import Command, ShowOne
from consumer.cli.errors import DRIFT
from consumer.journal import migrations


class DbUpgrade(Command):
    """Upgrade the journal's schema. Daemons of the previous release may keep running, and the command may be repeated.

    An SQLite journal upgrades itself when a program opens it.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with closing(self.session.unchecked_database()) as database:
            before, after = migrations.upgrade(database)
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
