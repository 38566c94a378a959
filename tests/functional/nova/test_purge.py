"""Purging in a simulated cloud; chunks and dates of all tables are tested on real servers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from handlers.access.service_files import ConfigError
from handlers.base import Conflict, Finding, Key, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.archive.purge import Purge
from handlers.nova.archive.schema import Schema
from handlers.nova.simulation import NovaSimulation
from tests.statements import counted

Make = Callable[[str], Purge]


@pytest.fixture
def make(cloud: NovaSimulation, tmp_path: Path) -> Iterator[Make]:
    """Make the handler with these lines in the group [audit]."""
    made: list[Resources] = []

    def build(audit: str) -> Purge:
        conf = cfg.ConfigOpts()
        for group, options in Purge.options().items():
            conf.register_opts(options, group)
        file = tmp_path / "purge.conf"
        nova = "\n".join(f"{name} = {value}" for name, value in cloud.options()["nova"].items())
        file.write_text(f"[audit]\narchive_deleted_rows_pause_seconds = 0\n{audit}\n[nova]\n{nova}\n")
        conf(args=[], default_config_files=[str(file)], default_config_dirs=[])
        made.append(Resources(conf))
        return Purge.from_resources(made[-1])

    yield build
    for resources in made:
        resources.close()


@pytest.fixture
def keys(cloud: NovaSimulation) -> dict[str, Key]:
    with cloud.api.connect() as connection:
        rows = connection.execute(sa.select(tables.cell_mappings.c.name, tables.cell_mappings.c.uuid))
        return {row.name: Key("cell", row.uuid) for row in rows}


def shelve(cloud: NovaSimulation, *days: int | None) -> None:
    """Archive instances that were deleted so many days ago; None has no date."""
    now = datetime.now(UTC).replace(tzinfo=None)
    with cloud.cells["cell1"].begin() as connection:
        for number, age in enumerate(days, 1):
            when = None if age is None else now - timedelta(days=age)
            values = {"id": number, "uuid": f"i{number}", "deleted": number, "deleted_at": when}
            connection.execute(sa.insert(tables.shadow_instances).values(values))


def left(cloud: NovaSimulation) -> list[str]:
    with cloud.cells["cell1"].connect() as connection:
        return list(connection.scalars(sa.select(tables.shadow_instances.c.uuid)))


def test_deletes_what_is_twice_as_old_as_the_archive_asks(
    cloud: NovaSimulation, make: Make, keys: dict[str, Key]
) -> None:
    shelve(cloud, 100, 62, 58, 1, None, 200)
    purge = make("archive_deleted_rows_rows_per_transaction = 2")
    assert list(purge.sweep()) == [keys["cell1"]]
    [finding] = purge.inspect(keys["cell1"])
    healed = purge.heal(finding)
    assert left(cloud) == ["i3", "i4", "i5"]
    assert healed.after == {"purged": {"shadow_instances": 3}}
    assert "backup" in healed.undo
    assert not list(purge.sweep())
    assert not purge.inspect(keys["cell1"])
    with pytest.raises(Conflict):
        purge.heal(finding)


def test_what_has_no_date_goes_with_its_instance(cloud: NovaSimulation, make: Make, keys: dict[str, Key]) -> None:
    """Nova notes how often it tried to clean up after a deleted instance, and gives the note no date."""
    shelve(cloud, 100, 10)
    notes = tables.cell.tables["shadow_instance_system_metadata"]
    with cloud.cells["cell1"].begin() as connection:
        for number, owner in enumerate(["i1", "i2", "unknown", "i1"], 1):
            row = {"id": number, "instance_uuid": owner, "key": "clean_attempts", "value": "1", "deleted": 0}
            connection.execute(sa.insert(notes).values(row))
    purge = make("archive_deleted_rows_rows_per_transaction = 1")
    [finding] = purge.inspect(keys["cell1"])
    healed = purge.heal(finding)
    assert healed.after == {"purged": {"shadow_instance_system_metadata": 2, "shadow_instances": 1}}
    with cloud.cells["cell1"].connect() as connection:
        assert set(connection.scalars(sa.select(notes.c.instance_uuid))) == {"i2", "unknown"}
    assert left(cloud) == ["i2"]
    assert not list(purge.sweep())


def test_the_age_is_an_option_but_never_below_the_archives(
    cloud: NovaSimulation, make: Make, keys: dict[str, Key]
) -> None:
    shelve(cloud, 100, 41, 39)
    purge = make("purge_after_days = 40")
    [finding] = purge.inspect(keys["cell1"])
    purge.heal(finding)
    assert left(cloud) == ["i3"]
    with pytest.raises(ConfigError, match="purge_after_days"):
        make("purge_after_days = 30")


def test_it_is_off_by_default() -> None:
    assert Purge.default_mode == "off"


def test_a_date_that_is_too_young_is_not_believed(cloud: NovaSimulation, make: Make, keys: dict[str, Key]) -> None:
    shelve(cloud, 10)
    with pytest.raises(Conflict):
        make("").heal(Finding(keys["cell1"], "rows-to-purge", "", {"cell": keys["cell1"].id, "before": "2999-01-01"}))
    assert left(cloud) == ["i1"]


def test_a_cell_that_does_not_answer(
    cloud: NovaSimulation, make: Make, keys: dict[str, Key], cut: Callable[[str], None]
) -> None:
    shelve(cloud, 100)
    cut("cell2")
    sweep = make("").sweep()
    assert next(sweep) == keys["cell1"]
    with pytest.raises(Unavailable):
        next(sweep)
    assert not make("").inspect(Key("cell", "no such cell"))


def test_it_stops_between_two_transactions_when_the_window_closes(
    cloud: NovaSimulation, make: Make, keys: dict[str, Key]
) -> None:
    shelve(cloud, 100, 101, 102, 103, 104)
    purge = make("archive_deleted_rows_rows_per_transaction = 2")
    [finding] = purge.inspect(keys["cell1"])
    with pytest.raises(Conflict, match="stackmend ended the run early"):
        purge.heal_while(finding, lambda: False)
    assert left(cloud) == ["i1", "i2", "i3", "i4", "i5"]
    answers = iter([True, False])
    healed = purge.heal_while(finding, lambda: next(answers))
    assert left(cloud) == ["i3", "i4", "i5"]
    assert healed.after == {"purged": {"shadow_instances": 2}, "stopped": "stackmend ended the run early"}
    assert not healed.complete
    assert purge.heal(finding).complete
    assert left(cloud) == []


def test_a_cycle_is_bounded_and_the_next_one_deletes_the_rest(
    cloud: NovaSimulation, make: Make, keys: dict[str, Key]
) -> None:
    shelve(cloud, 100, 101, 102, 103, 104)
    purge = make("purge_rows_per_cycle = 3\narchive_deleted_rows_rows_per_transaction = 2")
    [finding] = purge.inspect(keys["cell1"])
    healed = purge.heal(finding)
    assert left(cloud) == ["i4", "i5"]
    assert healed.complete, "or the machine would go on at once"
    assert "purge_rows_per_cycle" in healed.after["stopped"]
    assert list(purge.sweep()) == [keys["cell1"]]
    assert purge.heal(finding).after == {"purged": {"shadow_instances": 2}}
    assert left(cloud) == []


def reads_of_schemas(found: Counter[tuple[str, str]], database: str) -> int:
    """Return how often the tables of a database were listed."""
    return sum(number for (name, text), number in found.items() if name == database and "sqlite_master" in text)


def test_a_pass_reads_the_schema_of_a_cell_once(cloud: NovaSimulation, make: Make, keys: dict[str, Key]) -> None:
    shelve(cloud, 100, 100)
    purge = make("")
    with counted() as once:
        Schema.read(purge._databases.database(purge._databases.cells()[1]))
    with counted() as found:
        assert list(purge.sweep()) == [keys["cell1"]]
        [finding] = purge.inspect(keys["cell1"])
        purge.heal(finding)
    assert not left(cloud)
    assert reads_of_schemas(found, "cell1") == reads_of_schemas(once, "cell1") > 0


def test_a_new_revision_is_a_new_schema(cloud: NovaSimulation, make: Make, keys: dict[str, Key]) -> None:
    """A table that comes with an upgrade between two passes is purged too."""
    purge = make("")
    assert not list(purge.sweep())
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(
            sa.text("CREATE TABLE shadow_novelties (id INTEGER PRIMARY KEY, deleted INTEGER, deleted_at DATETIME)")
        )
        connection.execute(sa.text("INSERT INTO shadow_novelties VALUES (1, 1, '2001-01-01 00:00:00')"))
        connection.execute(sa.update(tables.cell_version).values(version_num="16f1fbcab42b"))
    assert list(purge.sweep()) == [keys["cell1"]]
    [finding] = purge.inspect(keys["cell1"])
    assert purge.heal(finding).after == {"purged": {"shadow_novelties": 1}}


@pytest.mark.parametrize(("option", "pauses"), [(0.05, [0.02, 0.02]), (0.01, [0.01, 0.01])])
def test_pauses_as_long_as_the_last_transaction_took(
    cloud: NovaSimulation,
    make: Make,
    keys: dict[str, Key],
    monkeypatch: pytest.MonkeyPatch,
    option: float,
    pauses: list[float],
) -> None:
    shelve(cloud, 100, 100, 100)
    purge = make(
        f"archive_deleted_rows_rows_per_transaction = 2\n[audit]\narchive_deleted_rows_pause_seconds = {option}"
    )
    [finding] = purge.inspect(keys["cell1"])
    readings, paused = itertools.count(0, 0.02), list[float]()
    clock = SimpleNamespace(monotonic=lambda: next(readings), sleep=paused.append)
    monkeypatch.setattr("handlers.nova.archive.purge.time", clock)
    purge.heal(finding)
    assert paused == pytest.approx(pauses)
    assert not left(cloud)
