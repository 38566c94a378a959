"""The journal on SQLite, the embedded default."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from consumer.journal import migrations, replicas
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import JournalUnavailable, WrongJournal
from tests import journals
from tests.functional.journal.contract import JournalContract


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Database]:
    database = journals.fresh(tmp_path)
    yield database
    database.close()


class TestSqlite(JournalContract):
    """The contract, on a file."""


def test_a_second_process_is_refused_until_the_first_is_dead(journal: Database) -> None:
    hold = (
        "import sys, time\n"
        "from consumer.journal import replicas\n"
        "from consumer.journal.database import Database, open_engine\n"
        "with replicas.sole_user(Database(open_engine(sys.argv[1]))):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(journal.engine.url)], stdout=subprocess.PIPE)
    assert other.stdout
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(replicas.AlreadyRunning, match="one replica"), replicas.sole_user(journal):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with replicas.sole_user(journal) as alone:
        assert alone


def test_the_revision_that_the_program_needs_is_the_newest_migration() -> None:
    folder = Path(migrations.__file__).parent
    assert ScriptDirectory(str(folder)).get_heads() == [migrations.head()]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(WrongJournal, match=f"{file} is damaged or is no SQLite database"):
        migrations.upgrade(Database(open_engine(f"sqlite:///{file}")))
    assert file.read_bytes() == b"no database" * 1000


@pytest.mark.parametrize("url", ["nonsense", "oracle://x/y", "sqlite+nothing:///x", ""])
def test_the_error_for_a_wrong_url_names_the_option(url: str) -> None:
    with pytest.raises(WrongJournal, match=r"\[journal\] connection"):
        open_engine(url)


def test_an_unreachable_database_is_unavailable_and_keeps_its_secret() -> None:
    database = Database(open_engine("mysql+pymysql://stackmend:planted-secret@127.0.0.1:1/journal"))
    with pytest.raises(JournalUnavailable) as caught:
        migrations.current(database)
    assert "planted-secret" not in repr(caught.value)
    assert "planted-secret" not in repr(database.engine)


def test_the_error_names_a_missing_folder(tmp_path: Path) -> None:
    database = Database(open_engine(f"sqlite:///{tmp_path}/nowhere/journal.sqlite"))
    with pytest.raises((JournalUnavailable, WrongJournal)):
        migrations.check(database)


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(open_engine(f"sqlite:///{tmp_path}/private.sqlite"))
        migrations.upgrade(database)
        files = list(tmp_path.glob("private.sqlite*"))
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        database.close()
    finally:
        os.umask(before)
