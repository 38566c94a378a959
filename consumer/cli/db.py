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
    """Bring the journal's schema up to date; may be run again, and while daemons of the release before still run.

    An SQLite journal upgrades itself when it is opened.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Upgrade."""
        with closing(self.session.bare_database()) as database:
            before, after = migrations.upgrade(database)
        self.say(f"the journal is at {after}" + ("" if before == after else f"; it was at {before or 'nothing'}"))


class DbVersion(ShowOne):
    """Show the revision of the journal's schema and the one this program needs. Exit code 2 when they differ."""

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        """Return both."""
        with closing(self.session.bare_database()) as database:
            current = migrations.current(database)
        if current != migrations.head():
            self.exit_code = DRIFT
            self.remark("run 'db upgrade'")
        return {"Journal": current, "Program": migrations.head()}
