"""Upgrades of a journal on SQLite, and the rule that decides which program may use which journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from consumer.journal.migrations import Fit, Schema
from tests.functional.journal.upgrades import UpgradeContract


class TestSqlite(UpgradeContract):
    """The contract, on a file."""

    @pytest.fixture
    def empty(self, tmp_path: Path) -> Iterator[Database]:
        database = Database(open_engine(f"sqlite:///{tmp_path}/journal.sqlite"))
        yield database
        database.close()

    def test_a_file_is_upgraded_when_a_program_opens_it(self, old: Database) -> None:
        migrations.check(old)
        assert migrations.schema_of(old) == Schema(migrations.HEAD, migrations.OLDEST)


@pytest.mark.parametrize(
    ("revision", "oldest", "program", "fit"),
    [
        (None, None, "0001", Fit.DUE),
        ("0001", None, "0001", Fit.SAME),
        ("0001", None, "0002", Fit.DUE),
        ("0002", "0001", "0001", Fit.NEWER),
        ("0002", "0001", "0002", Fit.SAME),
        ("0003", "0002", "0001", Fit.REFUSED),
        ("0003", "0002", "0002", Fit.NEWER),
        ("0003", "0003", "0002", Fit.REFUSED),
        # without a permission
        ("0002", None, "0001", Fit.REFUSED),
        # an upgrade to 0003, which refuses 0002, was interrupted
        ("0002", "0003", "0002", Fit.REFUSED),
        ("0002", "0003", "0003", Fit.DUE),
    ],
)
def test_which_program_may_use_which_journal(revision: str | None, oldest: str | None, program: str, fit: Fit) -> None:
    assert Schema(revision, oldest).fit(program) is fit


def test_reading_the_schema_makes_no_file(tmp_path: Path) -> None:
    database = Database(open_engine(f"sqlite:///{tmp_path}/journal.sqlite"))
    assert migrations.schema_of(database) == Schema(None, None)
    assert list(tmp_path.iterdir()) == []
