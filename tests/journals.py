"""Journals in SQLite files: copies of one that was upgraded once, because an upgrade takes longer than most tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from consumer.journal import migrations
from consumer.journal.database import Database, open_engine


def fresh(folder: Path) -> Database:
    """Return an empty journal of the newest revision, in a new file of this folder."""
    file = folder / "journal.sqlite"
    file.touch(0o600)
    file.write_bytes(_upgraded())
    return _opened(file)


@cache
def _upgraded() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "journal.sqlite"
        database = _opened(file)
        migrations.upgrade(database)
        database.close()
        assert [found.name for found in file.parent.iterdir()] == [file.name], "SQLite has written all into the file"
        return file.read_bytes()


def _opened(file: Path) -> Database:
    return Database(open_engine(f"sqlite:///{file}"))
