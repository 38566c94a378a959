from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from consumer.cli.base import Command, ShowOne, add_by, operator
from consumer.cli.errors import DRIFT, OK, CommandError
from consumer.journal import acts, migrations
from consumer.journal.acts import Act
from consumer.journal.database import Database
from consumer.journal.migrations import Fit
from handlers.base import Key


class DbUpgrade(Command):
    """Upgrade the journal's schema. An interrupted upgrade continues when you repeat the command.

    Daemons may run meanwhile. If a running daemon is too old for the new schema, the command refuses the upgrade. Commands
    outside 'db' upgrade an SQLite journal when they open it.

    Exit codes of --check: 0 no upgrade is due, 1 this program is too old for the journal, 2 an upgrade is due.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--check", action="store_true", help="Say whether an upgrade is due, by the exit code too. Change nothing."
        )
        add_by(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        with closing(self.session.unchecked_database()) as database:
            return self._check(database) if parsed_args.check else self._upgrade(database, operator(parsed_args))

    def _check(self, database: Database) -> int:
        schema, program = migrations.schema_of(database), migrations.head()
        both = f"the journal has revision {schema.revision or 'none'}, this program has {program}"
        match schema.fit(program):
            case Fit.REFUSED:
                raise CommandError(schema.refusal(program))
            case Fit.DUE:
                self.write_line(f"an upgrade is due: {both}")
                return DRIFT
            case Fit.SAME | Fit.NEWER:
                self.write_line(f"no upgrade is due: {both}")
                return OK

    def _upgrade(self, database: Database, who: str) -> int:
        before, after = migrations.upgrade(database)
        if before != after:
            did = f"upgraded the journal from revision {before or 'none'} to {after}"
            acts.record(database, who, Act("db upgrade", "db", Key("revision", after), did))
        self.write_line(
            f"the journal has revision {after}" + ("" if before == after else f"; before: {before or 'none'}")
        )
        return OK


class DbVersion(ShowOne):
    """Show the revisions of the journal's schema, of this program, and of the oldest program that may use the journal.

    Exit code 2 if the revisions of schema and program differ.
    """

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        with closing(self.session.unchecked_database()) as database:
            schema = migrations.schema_of(database)
        program = migrations.head()
        fit = schema.fit(program)
        if fit is not Fit.SAME:
            self.exit_code = DRIFT
            self.remark(_REMARKS[fit])
        return {"Journal": schema.revision, "Program": program, "Oldest": schema.oldest}


_REMARKS = {
    Fit.DUE: "run 'db upgrade'",
    Fit.NEWER: "a newer release upgraded the journal; this program can use it",
    Fit.REFUSED: "a newer release upgraded the journal; this program cannot use it",
}
