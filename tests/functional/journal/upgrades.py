"""The upgrade of a journal, whatever database it is in. Run on SQLite here and on MariaDB and PostgreSQL in ``services``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect, text

from consumer.journal import (
    asks,
    backlog,
    controls,
    dead,
    deliveries,
    exemptions,
    hinting,
    history,
    migrations,
    replicas,
    schema,
    settling,
)
from consumer.journal.database import Database, now, open_engine
from consumer.journal.dead import DeadLetter
from consumer.journal.errors import WrongJournal
from consumer.journal.history import Outcome
from consumer.journal.migrations import Fit, ReplicasTooOld
from consumer.journal.work import Parked, Reported
from tests.functional.journal import first
from tests.functional.journal.contract import H, finding, hint, line, take

ROOT = Path(__file__).parents[3]
THINGS = 20


def url(journal: Database) -> str:
    return journal.engine.url.render_as_string(hide_password=False)


def populate(journal: Database) -> None:
    """Write rows of every kind."""
    controls.ensure(journal, [H])
    hinting.enqueue(journal, [hint("parked")], [DeadLetter("nova", "nova", "stackmend.info", "not read", 3, b"abc")])
    settling.settle(journal, take(journal)[0], Parked("it never worked", 8))
    hinting.enqueue(journal, [hint("reported")])
    settling.settle(journal, take(journal)[0], Reported("f" * 64))
    hinting.enqueue(journal, [hint("waiting"), hint("host-\N{PILE OF POO}")])
    deliveries.subscribe(journal, {"chat": ["found"]})
    history.append(journal, [line("a", Outcome.FOUND), line("b", Outcome.HEALING, undo="break b")])
    exemptions.add(journal, "host:compute-7", None, "alice", "memory test")
    journal.transact(
        lambda connection: asks.put(connection, H, finding("c"), "f" * 64, now(connection) + 3600, now(connection))
    )
    first.register_first(journal, "replica of 0001")


def contents(journal: Database) -> list[object]:
    """Return what the journal has, without values that depend on the time of reading."""
    return [
        [(row.id, row.handler, row.key, row.state, row.hint, row.error) for row in backlog.listing(journal)],
        history.listing(journal),
        history.listing(journal, handler=H, limit=1),
        asks.listing(journal),
        exemptions.listing(journal),
        dead.find(journal, dead.ids(journal)),
        [(one.sink, one.messages) for one in deliveries.waiting(journal)],
        controls.read(journal),
    ]


def statements(journal: Database, *texts: str) -> None:
    with journal.engine.begin() as connection:
        for statement in texts:
            connection.execute(text(statement))


def mark(journal: Database, revision: str, oldest: str) -> None:
    """Let the journal look like one that a newer release upgraded."""
    statements(
        journal,
        f"UPDATE alembic_version SET version_num = '{revision}'",
        f"INSERT INTO compatibility VALUES ('{revision}', '{oldest}')",
    )


@contextmanager
def running(journal: Database, revision: str, name: str, folder: Path) -> Iterator[None]:
    """Run a replica."""
    command = [sys.executable, "-m", "tests.functional.journal.replica", revision, url(journal), name, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.stdin.close()
            assert process.wait(60) == 0


def break_things(journal: Database, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / "broken" / name).touch()
    hinting.enqueue(journal, [hint(name) for name in names])


def wait(what: str, journal: Database, healed_by: Sequence[str]) -> None:
    """Wait until no work is left and each of these replicas has healed; a wide bound, for slow machines."""
    deadline = time.monotonic() + 120
    while backlog.listing(journal) or not set(healed_by) <= {entry.replica for entry in history.listing(journal)}:
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class UpgradeContract:
    """Subclasses give the fixture ``empty``: an empty database."""

    @pytest.fixture
    def old(self, empty: Database) -> Database:
        """A journal of revision 0001."""
        first.make_journal(empty)
        return empty

    def test_an_upgrade_and_a_new_journal_have_the_schema_of_the_program(self, old: Database) -> None:
        assert migrations.upgrade(old) == ("0001", migrations.HEAD)
        with old.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
            names = {one["name"] for table in schema.metadata.tables for one in inspect(connection).get_indexes(table)}
        assert {index.name for table in schema.metadata.tables.values() for index in table.indexes} <= names
        # The program and its newest migration name the same oldest revision.
        assert migrations.schema_of(old) == migrations.Schema(migrations.HEAD, migrations.OLDEST)

    def test_rows_are_read_before_and_after_the_upgrade(self, old: Database) -> None:
        populate(old)
        before = contents(old)
        assert [bool(part) for part in before] == [True] * len(before)
        assert migrations.schema_of(old).fit(migrations.HEAD) is Fit.DUE
        assert contents(old) == before
        migrations.upgrade(old)
        assert contents(old) == before
        assert [(one.id, one.revision) for one in replicas.listing(old)] == [("replica of 0001", None)]
        assert migrations.upgrade(old) == (migrations.HEAD, migrations.HEAD)

    def test_an_upgrade_that_is_killed_after_each_write_is_resumed(self, old: Database) -> None:
        populate(old)
        before = contents(old)
        kills = 0
        while migrations.schema_of(old).revision != migrations.HEAD:
            # SQLite takes back all writes of the killed process; a server keeps them.
            writes = kills + 1 if old.engine.dialect.name == "sqlite" else 1
            command = [sys.executable, "-m", "tests.functional.journal.killed", url(old), str(writes)]
            code = subprocess.run(command, cwd=ROOT, check=False, timeout=600).returncode
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            assert contents(old) == before
            assert migrations.schema_of(old).fit("0001") in (Fit.SAME, Fit.NEWER)
        assert kills >= 5
        with old.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        migrations.check(old)

    def test_replicas_of_both_revisions_share_the_journal(self, old: Database, tmp_path: Path) -> None:
        for name in ("broken", "mended"):
            (tmp_path / name).mkdir()
        with ExitStack() as stack:
            stack.enter_context(running(old, "0001", "old", tmp_path))
            broken = [f"first-{number}" for number in range(THINGS)]
            break_things(old, tmp_path, broken)
            migrations.upgrade(old)
            wait("the old replica works beside the upgrade", old, ["old"])
            stack.enter_context(running(old, migrations.HEAD, "new", tmp_path))
            # An operator goes back a release: the old program starts beside the new schema.
            stack.enter_context(running(old, "0001", "back", tmp_path))
            batch = 0
            while not {"new", "back", "old"} <= {entry.replica for entry in history.listing(old)}:
                batch += 1
                assert batch < 30, "each replica gets work"
                more = [f"batch-{batch}-{number}" for number in range(THINGS)]
                break_things(old, tmp_path, more)
                wait("the replicas work together", old, [])
                broken += more
        entries = history.listing(old, limit=100_000)
        healed = Counter((entry.key, entry.outcome) for entry in entries)
        assert healed == {(f"thing:{name}", "healed"): 1 for name in broken}
        assert {file.name for file in (tmp_path / "mended").iterdir()} == set(broken)
        assert {one.id: one.revision for one in replicas.listing(old)} == {
            "old": None,
            "back": None,
            "new": migrations.HEAD,
        }

    def test_a_program_goes_on_beside_a_newer_schema_that_permits_it(self, old: Database) -> None:
        migrations.upgrade(old)
        mark(old, "9998", oldest=migrations.HEAD)
        migrations.check(old)
        hinting.enqueue(old, [hint("a")])
        assert [claim.key.id for claim in take(old)] == ["a"]
        assert migrations.upgrade(old) == ("9998", "9998")
        assert migrations.schema_of(old) == migrations.Schema("9998", migrations.HEAD)

    def test_a_program_that_is_too_old_is_refused(self, old: Database) -> None:
        migrations.upgrade(old)
        mark(old, "9998", oldest="9997")
        sentence = "revision 9998, which needs programs of revision 9997 or newer, and this program has 0002: install"
        for refused in (migrations.check, migrations.upgrade):
            with pytest.raises(WrongJournal, match=sentence):
                refused(old)

    def test_an_upgrade_that_would_break_a_running_replica_is_refused(
        self, old: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "OLDEST", "0002")
        first.register_first(old, "replica-of-0001")
        with pytest.raises(ReplicasTooOld, match="replica-of-0001; stop them"):
            migrations.upgrade(old)
        assert migrations.schema_of(old) == migrations.Schema("0001", None)
        replicas.unregister(old, "replica-of-0001")
        assert migrations.upgrade(old) == ("0001", migrations.HEAD)

    def test_the_newest_entries_of_a_rare_handler_are_read_in_the_order_of_an_index(self, old: Database) -> None:
        migrations.upgrade(old)
        entry = {
            "at": 0.0,
            "key": "thing:a",
            "outcome": "found",
            "weight": 1,
            "problem": "broken",
            "summary": "",
            "hint": "",
        }
        entries = [
            {**entry, "handler": name, "evidence": "{}", "replica": "r1"} for name in [*["busy"] * 2000, *["rare"] * 5]
        ]
        with old.engine.begin() as connection:
            connection.execute(insert(schema.history), entries)
        with old.engine.begin() as connection:
            mysql = connection.dialect.name in ("mysql", "mariadb")
            connection.exec_driver_sql("ANALYZE TABLE history" if mysql else "ANALYZE")
            explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
            query = "SELECT * FROM history WHERE handler = 'rare' ORDER BY id DESC LIMIT 1000"
            plan = "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(explain + query))
        assert "history_handler_idx" in plan
        assert not [word for word in ("filesort", "TEMP B-TREE", "Sort Key") if word in plan]
        assert len(history.listing(old, handler="rare")) == 5


def reopened(journal: Database, statement_seconds: int | None) -> Database:
    return Database(open_engine(url(journal), statement_seconds=statement_seconds))
