"""Archive and purge on the servers that Nova runs on: foreign keys, ENUM types, interruptions, whole worlds compared."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.access.database import Database
from handlers.base import Finding, Healed, Key, Refused, Unavailable
from handlers.checks import grants
from handlers.nova import tables
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.archive.cycle import Settings
from handlers.nova.archive.purge import Purge
from handlers.nova.database import NovaDatabases
from handlers.nova.placement import Allocation, Provider

KINDS = ("mariadb", "postgresql")
CELL = "7f3c1d52-1f2e-4b64-9c64-0a0b1f0a7a11"
KEY = Key("cell", CELL)
LONG_AGO = datetime.now(UTC).replace(tzinfo=None, microsecond=0) - timedelta(days=40)
RECENTLY = LONG_AGO + timedelta(days=35)

#: children of instances in Nova's schema, with how many rows each instance has of them
CHILDREN = {
    "block_device_mapping": 2,
    "instance_actions": 2,
    "instance_extra": 1,
    "instance_faults": 1,
    "instance_info_caches": 1,
    "instance_metadata": 2,
    "instance_system_metadata": 5,
    "migrations": 1,
    "virtual_interfaces": 1,
    "security_group_instance_association": 1,
}


def _base(kind: str = "") -> list[sa.Column[Any]]:
    deleted: list[sa.Column[Any]] = [sa.Column("deleted_at", sa.DateTime), sa.Column("deleted", sa.Integer)]
    times = [sa.Column("created_at", sa.DateTime), sa.Column("updated_at", sa.DateTime)]
    return [sa.Column("id", sa.Integer, primary_key=True), *times, *([] if kind == "no soft delete" else deleted)]


def _instance() -> sa.Column[Any]:
    return sa.Column("instance_uuid", sa.String(36), sa.ForeignKey("instances.uuid"), index=True)


def _ref(name: str, target: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, sa.ForeignKey(target), index=True)


def _schema() -> sa.MetaData:
    """What of Nova's cells matters here, with its foreign keys and shadow tables."""
    meta = sa.MetaData()
    moves = ("migration", "resize", "live-migration", "evacuation")
    text = sa.Column("value", sa.String(255))
    more: dict[str, list[sa.Column[Any]]] = {
        "instances": [
            sa.Column("uuid", sa.String(36), nullable=False, unique=True),
            sa.Column("internal_id", sa.Integer),
            *(sa.Column(name, sa.String(255)) for name in ("project_id", "host", "node")),
            sa.Column("hidden", sa.Boolean(create_constraint=False)),
        ],
        **{name: [_instance(), text.copy()] for name in CHILDREN},
        "instance_actions_events": [_ref("action_id", "instance_actions.id"), text.copy()],
        "instance_id_mappings": [sa.Column("uuid", sa.String(36))],
        "services": [
            *(sa.Column(name, sa.String(255)) for name in ("value", "host", "binary")),
            sa.Column("last_seen_up", sa.DateTime),
        ],
        "compute_nodes": [
            *(sa.Column(name, sa.String(255)) for name in ("uuid", "host", "hypervisor_hostname", "hypervisor_type")),
            sa.Column("mapped", sa.Integer),
        ],
        "pci_devices": [_ref("compute_node_id", "compute_nodes.id")],
        "security_groups": [text.copy()],
        "security_group_rules": [_ref("parent_group_id", "security_groups.id"), _ref("group_id", "security_groups.id")],
        "task_log": [text.copy()],
    }
    more["migrations"] += [sa.Column(name, sa.String(255)) for name in ("uuid", "status", "source_compute")]
    more["migrations"].append(sa.Column("migration_type", sa.Enum(*moves, name="migration_type")))
    more["security_group_instance_association"].append(_ref("security_group_id", "security_groups.id"))
    for name, columns in more.items():
        table = sa.Table(name, meta, *_base(), *columns)
        lost = {"internal_id"}
        shadow = [
            sa.Column(column.name, _shadow_type(column.type), primary_key=column.primary_key)
            for column in table.c
            if column.name not in lost
        ]
        sa.Table(f"shadow_{name}", meta, *shadow)
    sa.Table("share_mapping", meta, *_base("no soft delete"), _instance())
    sa.Table("tags", meta, sa.Column("resource_id", sa.String(36), primary_key=True), sa.Column("tag", sa.String(80)))
    sa.Table("shadow_agent_builds", meta, *_base())
    sa.Table("alembic_version", meta, sa.Column("version_num", sa.String(32), primary_key=True))
    return meta


def _shadow_type(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    return sa.Enum(*kind.enums, name=f"shadow_{kind.name}") if isinstance(kind, sa.Enum) else kind


@dataclass
class Shelf:
    """Placement, as far as archiving asks it."""

    held: set[str] = field(default_factory=set)
    down: bool = False

    def is_compute_node(self, provider: str) -> bool:
        return provider in self.providers()

    def providers(self) -> dict[str, Provider]:
        if self.down:
            raise Unavailable("placement", "down")
        return {"node": Provider("node", "node", "node")}

    def holders(self, provider: str) -> frozenset[str]:
        return frozenset(self.held)

    def allocation(self, consumer: str) -> Allocation:
        if self.down:
            raise Unavailable("placement", "down")
        return Allocation(consumer, {"node": {"VCPU": 1}} if consumer in self.held else {})


class World:
    """One database that is nova_api and a cell at the same time.

    :param url: of an empty database
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        self.meta = _schema()
        self.placement = Shelf()
        self.databases = NovaDatabases(url)
        tables.api.create_all(self.engine, tables=[t for t in tables.api.sorted_tables if t.name != "alembic_version"])
        self.meta.create_all(self.engine)
        with self.engine.begin() as connection:
            heads = [{"version_num": "cdeec0c85668"}, {"version_num": "2903cd72dc14"}]
            connection.execute(sa.insert(self.table("alembic_version")), heads)
        self.add(tables.cell_mappings, id=1, uuid=CELL, name="cell1", database_connection=url, disabled=False)
        self.add("compute_nodes", deleted=0, uuid="node", host="node", hypervisor_hostname="node", mapped=1)

    def close(self) -> None:
        self.databases.close()
        self.engine.dispose()

    def table(self, name: str) -> sa.Table:
        return self.meta.tables[name]

    def add(self, table: sa.Table | str, **values: Any) -> int:
        table = self.table(table) if isinstance(table, str) else table
        with self.engine.begin() as connection:
            made = connection.execute(sa.insert(table).values({"created_at": LONG_AGO, **values}))
            return int(made.inserted_primary_key[0])  # type: ignore[index]

    def deleted(self, name: str, when: datetime = LONG_AGO, **values: Any) -> int:
        row = self.add(name, deleted=0, **values)
        self.mark(name, row, when)
        return row

    def mark(self, name: str, row: int, when: datetime = LONG_AGO) -> None:
        table = self.table(name)
        with self.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == row).values(deleted=row, deleted_at=when))

    def instance(self, when: datetime | None = LONG_AGO) -> str:
        """Add an instance of 18 rows, with what nova_api knows of it; deleted at that time, or alive."""
        name = str(uuid.uuid4())
        self.grow([name], when)
        return name

    def grow(self, names: list[str], when: datetime | None = LONG_AGO) -> None:
        """Add instances, all their rows in few statements; as Nova does, some children are marked and some are not."""
        mark = {"deleted": 0} if when is None else {"deleted": 1, "deleted_at": when}
        base = {"created_at": LONG_AGO}
        with self.engine.begin() as connection:
            rows = [{**base, **mark, "uuid": name, "internal_id": 7} for name in names]
            connection.execute(sa.insert(self.table("instances")), rows)
            for child, number in CHILDREN.items():
                marked = (
                    mark if child in ("instance_info_caches", "migrations", "block_device_mapping") else {"deleted": 0}
                )
                rows = [{**base, **marked, "instance_uuid": name} for name in names for _ in range(number)]
                if child == "migrations":
                    rows = [{**row, "uuid": str(uuid.uuid4()), "migration_type": "live-migration"} for row in rows]
                connection.execute(sa.insert(self.table(child)), rows)
            actions = self.table("instance_actions")
            query = sa.select(actions.c.id).where(actions.c.instance_uuid.in_(names))
            rows = [{**base, "deleted": 0, "action_id": action} for action in connection.scalars(query)]
            connection.execute(sa.insert(self.table("instance_actions_events")), rows)
            known = [{"instance_uuid": name, "project_id": "p", "cell_id": 1} for name in names]
            connection.execute(sa.insert(tables.instance_mappings), known)
            connection.execute(
                sa.insert(tables.request_specs), [{"instance_uuid": name, "spec": "{}"} for name in names]
            )
            connection.execute(
                sa.insert(tables.instance_group_member), [{"instance_uuid": name, "group_id": 1} for name in names]
            )

    def rows(self, prefix: str = "") -> dict[str, list[tuple[Any, ...]]]:
        """Return the rows of all tables with this prefix (live ones without it), without what archiving loses."""
        found = {}
        with self.engine.connect() as connection:
            for name, table in self.meta.tables.items():
                if name.startswith("shadow_") == bool(prefix):
                    columns = [column for column in table.c if column.name != "internal_id"]
                    listed = connection.execute(sa.select(*columns).order_by(columns[0])).all()
                    found[name.removeprefix("shadow_")] = [tuple(row) for row in listed]
        return found

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows, wherever they are: what archiving must not change."""
        live, shadow = self.rows(), self.rows("shadow_")
        return {name: sorted(live.get(name, []) + shadow.get(name, []), key=repr) for name in {*live, *shadow}}

    def count(self, name: str) -> int:
        table = self.meta.tables.get(name)
        with self.engine.connect() as connection:
            source = tables.api.tables[name] if table is None else table
            return int(connection.scalar(sa.select(sa.func.count()).select_from(source)) or 0)

    def archive(self, **settings: Any) -> ArchiveDeletedRows:
        return ArchiveDeletedRows(self.databases, self.placement, Settings(**{"pause": 0.0, **settings}))  # type: ignore[arg-type]

    def findings(self, problem: str = "rows-to-archive") -> list[Finding]:
        return [finding for finding in self.archive().inspect(KEY) if finding.problem == problem]

    def run(self, **settings: Any) -> Healed:
        [finding] = self.findings()
        return self.archive(**settings).heal(finding)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(str(request.getfixturevalue(f"{request.param}_url")))
    yield made
    made.close()


@contextmanager
def broken(when: Callable[[str], bool], error: Exception) -> Iterator[None]:
    """Raise before the first such statement, on any connection."""
    left = [error]

    def strike(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if left and when(statement):
            raise left.pop()

    sa.event.listen(sa.Engine, "before_cursor_execute", strike)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", strike)


def test_moves_whole_trees_and_nothing_that_is_young_or_alive(world: World) -> None:
    gone = [world.instance() for _ in range(7)]
    for when in (None, RECENTLY):
        world.instance(when)
    node = world.deleted("compute_nodes")
    world.add("pci_devices", deleted=0, compute_node_id=node)
    world.deleted("services", RECENTLY)
    world.deleted("services")
    world.add("services", deleted=5)  # no date
    group, other = world.deleted("security_groups"), world.add("security_groups", deleted=0)
    world.add("security_group_rules", deleted=0, parent_group_id=group, group_id=other)
    world.add("security_group_rules", deleted=0, parent_group_id=other)
    world.add("task_log", deleted=0, updated_at=LONG_AGO)
    before, live = world.everything(), world.rows()
    assert list(world.archive().sweep()) == [KEY]

    healed = world.run(rows=40)

    assert world.everything() == before, "every row is where it was, or in its shadow table"
    now, shadow = world.rows(), world.rows("shadow_")
    assert [row[-1] for row in shadow["instances"]] == [row[-1] for row in live["instances"][:7]]
    for child, number in {"instances": 1, **CHILDREN, "instance_actions_events": 2}.items():
        assert (len(now[child]), len(shadow[child])) == (2 * number, 7 * number), child
    for name, counts in {
        "compute_nodes": (1, 1),
        "pci_devices": (0, 1),
        "services": (2, 1),
        "security_groups": (1, 1),
        "security_group_rules": (1, 1),
        "task_log": (1, 0),
    }.items():
        assert (len(now[name]), len(shadow[name])) == counts, name
    assert healed.after["rows"] == {name: len(rows) for name, rows in sorted(shadow.items()) if rows}
    assert healed.after["instances"] == 7
    assert healed.after["api_rows_deleted"] == 21
    for name in ("instance_mappings", "request_specs", "instance_group_member"):
        assert world.count(name) == 2
    assert gone[0] not in str(now)
    assert not world.findings()


@pytest.mark.parametrize("by", ["cell", "instance"])
def test_the_undo_written_before_the_heal_brings_every_row_back(world: World, by: str) -> None:
    names = [world.instance() for _ in range(3)]
    live = world.rows()
    if by == "cell":
        [finding] = world.findings()
        world.archive().heal(finding)
        text = finding.undo.split("-- for a row of")[0]
    else:
        findings = [finding for name in names for finding in world.archive().inspect(Key("instance", name))]
        for finding in findings:
            world.archive().heal(finding)
        text = "\n".join(finding.undo for finding in findings)
    assert not world.rows()["instances"]
    for name in names if by == "cell" else [""]:
        with world.engine.begin() as connection:
            for statement in text.splitlines():
                connection.exec_driver_sql(statement.replace("'UUID'", f"'{name}'"))
    assert world.rows() == live
    assert not any(world.rows("shadow_").values())
    restored = 0 if by == "cell" else 3
    for table in ("instance_mappings", "request_specs", "instance_group_member"):
        assert world.count(table) == restored


def test_the_undo_of_another_table_names_its_id(world: World) -> None:
    node = world.deleted("compute_nodes")
    world.add("pci_devices", deleted=0, compute_node_id=node)
    live = world.rows()
    [finding] = world.findings()
    world.archive().heal(finding)
    with world.engine.begin() as connection:
        for statement in _part(finding.undo, "-- for a row of compute_nodes"):
            connection.exec_driver_sql(statement.replace("<ID>", str(node)))
    assert world.rows() == live


def test_an_undo_without_an_id_restores_nothing(world: World) -> None:
    world.deleted("compute_nodes")
    [finding] = world.findings()
    world.archive().heal(finding)
    archived = world.rows(), world.rows("shadow_")
    for statement in _part(finding.undo, "-- for a row of compute_nodes"):
        with pytest.raises(sa.exc.DBAPIError), world.engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert (world.rows(), world.rows("shadow_")) == archived


def _part(undo: str, title: str) -> list[str]:
    """The statements below a line that begins with ``title``."""
    lines = iter(undo.splitlines())
    next(line for line in lines if line.startswith(title))
    return list(itertools.takewhile(lambda line: not line.startswith("--"), lines))


def test_task_log_goes_by_its_last_change_when_wanted(world: World) -> None:
    world.add("task_log", deleted=0, updated_at=LONG_AGO)
    world.add("task_log", deleted=0, updated_at=RECENTLY)
    world.add("task_log", deleted=0)
    assert not list(world.archive().inspect(KEY))
    task = world.archive(task_log=True)
    [finding] = task.inspect(KEY)
    assert task.heal(finding).after["rows"] == {"task_log": 1}
    assert (world.count("task_log"), world.count("shadow_task_log")) == (2, 1)


def test_a_row_that_cannot_be_moved_blocks_no_other(world: World) -> None:
    names = [world.instance() for _ in range(6)]
    world.add("share_mapping", instance_uuid=names[0])
    healed = world.run(rows=1000)
    assert (world.count("instances"), world.count("shadow_instances")) == (1, 5)
    assert list(healed.after["not_archivable"]) == [f"instances {names[0]}"], "told, also where something was archived"
    assert world.count("migrations") == 1, "a tree stays whole"
    [finding] = world.archive().inspect(KEY)
    assert (finding.problem, finding.healable) == ("row-unarchivable", False)
    assert finding.evidence["rows"] == [names[0]]
    assert finding.evidence["constraint"]
    [same] = world.archive().inspect(Key("instance", names[0]))
    assert same.problem == "row-unarchivable"
    with pytest.raises(Refused):
        world.archive().heal(finding)


def test_a_row_that_the_database_refuses_stays_and_is_reported(world: World) -> None:
    """A row of this id is in the shadow table already: a backup was restored over half of an archive."""
    names = [world.instance() for _ in range(6)]
    world.add("shadow_instances", id=3, uuid="other")
    before = world.everything()

    healed = world.run()

    assert world.everything() == before
    assert (world.count("instances"), world.count("shadow_instances")) == (1, 6)
    assert healed.after["instances"] == 5
    [(row, reason)] = healed.after["not_archivable"].items()
    assert row == "instances 3"
    assert "uplicate" in reason
    assert names[2] in str(world.rows()["instances"])
    assert world.count("instance_mappings") == 1
    with pytest.raises(Refused, match="instances 3"):
        world.run()


def test_who_holds_resources_stays(world: World) -> None:
    names = [world.instance() for _ in range(3)]
    with world.engine.connect() as connection:
        c = world.table("migrations").c
        migration = connection.scalar(sa.select(c.uuid).where(c.instance_uuid == names[1]))
    world.placement.held = {names[0], str(migration), "somebody else"}
    healed = world.run()
    assert healed.after["instances"] == 1
    assert healed.after["holding_resources"] == sorted(names[:2])
    assert (world.count("instances"), world.count("migrations")) == (2, 2)
    with pytest.raises(Refused, match="audit_allocations"):
        world.run()
    [finding] = world.archive().inspect(Key("instance", names[1]))
    assert (finding.problem, finding.healable) == ("rows-to-archive", False)


def test_instances_of_hosts_that_are_down_since_stay(world: World) -> None:
    """The last host, or one from which the instance was evacuated; a live migration left no guest behind."""
    last, evacuated, migrated = names = [world.instance() for _ in range(3)]
    for host, seen in (("down", LONG_AGO - timedelta(days=1)), ("up", RECENTLY)):
        world.add("services", deleted=0, host=host, binary="nova-compute", last_seen_up=seen)
    instances, migrations = world.table("instances"), world.table("migrations")
    with world.engine.begin() as connection:
        connection.execute(sa.update(instances).values(host="up"))
        connection.execute(sa.update(instances).where(instances.c.uuid == last).values(host="down"))
        connection.execute(sa.update(migrations).values(source_compute="down", status="done"))
        moved = sa.update(migrations).where(migrations.c.instance_uuid == evacuated)
        connection.execute(moved.values(migration_type="evacuation"))
    healed = world.run()
    assert healed.after["awaiting_hosts"] == sorted(names[:2])
    assert (healed.after["instances"], world.count("instances")) == (1, 2)
    assert [one.healable for name in (last, evacuated) for one in world.archive().inspect(Key("instance", name))] == [
        False,
        False,
    ]
    assert not world.archive().inspect(Key("instance", migrated))


def test_nothing_is_archived_while_placement_is_down(world: World) -> None:
    world.instance()
    world.placement.down = True
    with pytest.raises(Unavailable):
        world.run()
    assert world.count("shadow_instances") == 0


def test_one_instance(world: World) -> None:
    name, _ = world.instance(), world.instance()
    key = Key("instance", name)
    [finding] = world.archive().inspect(key)
    assert world.archive().heal(finding).after["instances"] == 1
    assert (world.count("instances"), world.count("shadow_instances")) == (1, 1)
    assert not list(world.archive().inspect(key))


def test_the_mapping_of_an_instance_that_lives_in_another_cell_stays(world: World) -> None:
    world.instance()
    world.add(tables.cell_mappings, id=2, uuid=str(uuid.uuid4()), name="cell2", database_connection=world.url)
    with world.engine.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(cell_id=2))
    world.run()
    assert world.count("shadow_instances") == 1
    for table in ("instance_mappings", "request_specs", "instance_group_member"):
        assert world.count(table) == 1


def test_an_error_between_copy_and_deletion_loses_and_doubles_nothing(world: World) -> None:
    for _ in range(5):
        world.instance()
    before = world.everything()
    with (
        broken(lambda statement: statement.startswith("DELETE FROM instance_faults"), RuntimeError("killed")),
        pytest.raises(RuntimeError),
    ):
        world.run(rows=40)
    assert world.everything() == before
    world.run(rows=40)
    assert world.everything() == before
    assert world.count("instances") == 0


def test_a_crash_before_the_api_rows_leaves_mappings_only(world: World) -> None:
    world.instance()
    before = world.everything()
    with (
        broken(lambda statement: statement.startswith("DELETE FROM instance_mappings"), RuntimeError("killed")),
        pytest.raises(RuntimeError),
    ):
        world.run()
    assert world.everything() == before
    assert (world.count("shadow_instances"), world.count("instance_mappings")) == (1, 1)


def test_killed_at_any_moment(world: World) -> None:
    world.grow([str(uuid.uuid4()) for _ in range(300)])
    before = world.everything()
    program = (
        "import sys; from tests.services.test_nova_archival import *; "
        "databases = NovaDatabases(sys.argv[1]); task = ArchiveDeletedRows(databases, Shelf(), Settings(rows=40, pause=0.05)); "
        "[finding] = task.inspect(KEY); print('ready', flush=True); task.heal(finding)"
    )
    for delay in (0.0, 0.02, 0.04):
        archived = world.count("shadow_instances")
        process = subprocess.Popen([sys.executable, "-c", program, world.url], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while process.poll() is None and world.count("shadow_instances") == archived:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert world.everything() == before
    assert 0 < world.count("shadow_instances") < 300, "it was in the middle"
    world.run()
    assert world.everything() == before
    assert world.count("instances") == 0


def test_a_row_that_lives_again_is_not_moved(world: World) -> None:
    """Somebody restores a row between the selection and the transaction."""
    world.instance()
    revive = "UPDATE instances SET deleted = 0"
    engine = world.engine

    def strike(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "FOR UPDATE" in statement:
            with engine.begin() as connection:
                connection.execute(sa.text(revive))

    sa.event.listen(sa.Engine, "before_cursor_execute", strike)
    try:
        assert world.run().after["rows"].get("instances") is None
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", strike)
    assert (world.count("instances"), world.count("shadow_instances")) == (1, 0)


def test_a_cycle_is_bounded(world: World) -> None:
    world.grow([str(uuid.uuid4()) for _ in range(40)])
    world.run(rows=100, rows_per_cycle=300)
    assert 10 <= world.count("shadow_instances") <= 25


def test_a_user_without_a_cell_schema_gets_an_error(world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE shadow_instances"))
    with pytest.raises(Unavailable, match="shadow_instances"):
        list(world.archive().inspect(KEY))
    with pytest.raises(Unavailable):
        list(world.archive().sweep())


def test_purge_goes_by_the_date_of_each_table(world: World) -> None:
    old, young = LONG_AGO - timedelta(days=60), LONG_AGO
    names = ("shadow_instances", "shadow_instance_actions", "shadow_instance_actions_events", "shadow_task_log")
    dates = ("deleted_at", "created_at", "created_at", "updated_at")
    for name, column in zip(names, dates, strict=True):
        others = {other: old for other in ("deleted_at", "created_at", "updated_at") if other != column}
        for number, when in enumerate([old] * 5 + [young, None], 1):
            world.add(name, id=number, **(others | {column: when}))
    world.add("shadow_agent_builds", id=1, deleted_at=old)
    live = world.instance()
    task = Purge(world.databases, after_days=80, rows=2, pause=0.0)
    assert list(task.sweep()) == [KEY]
    [finding] = task.inspect(KEY)

    healed = task.heal(finding)

    assert healed.after["purged"] == {**dict.fromkeys(sorted(names), 5), "shadow_agent_builds": 1}
    for name in names:
        assert [row[0] for row in world.rows("shadow_")[name.removeprefix("shadow_")]] == [6, 7]
    assert live in str(world.rows()["instances"])
    assert not list(task.inspect(KEY))
    assert not list(task.sweep())


def test_the_schema_is_read_on_another_connection(world: World) -> None:
    """The pool of the cell's database has no connection yet, so reading took none of it."""
    world.instance()
    made: list[str] = []
    database = Database("cell:other", world.url)
    sa.event.listen(database._engine, "connect", lambda *given: made.append("connected"))
    from handlers.nova.archive.schema import Schema

    assert Schema.read(database).archivable()[0].name == "instances"
    database.close()
    assert not made


def test_archiving_on_postgresql_needs_no_more_than_the_documented_rights(postgresql_url: str) -> None:
    world = World(postgresql_url)
    role = f"least_{uuid.uuid4().hex[:8]}"
    needs = [ArchiveDeletedRows.rights[kind] for kind in ("nova_api", "cell")]
    wanted = grants.merged(needs)
    try:
        with world.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'l'")
            for statement in grants.statements("public", role, wanted, "ALL TABLES IN SCHEMA public"):
                connection.exec_driver_sql(statement)
        name = world.instance()
        url = sa.make_url(postgresql_url).set(username=role, password="l")
        address = url.render_as_string(hide_password=False)
        with world.engine.begin() as connection:
            connection.execute(sa.update(tables.cell_mappings).values(database_connection=address))
        world.databases = NovaDatabases(address)
        assert world.run().after["instances"] == 1
        assert name not in str(world.rows()["instances"])
    finally:
        world.databases.close()
        with world.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
        world.close()
