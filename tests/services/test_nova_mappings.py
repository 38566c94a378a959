"""The SQL about mappings, on the servers that Nova runs on."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from handlers.access.database import Database
from handlers.base import Conflict
from handlers.nova import tables
from handlers.nova.database import NovaDatabases
from handlers.nova.mappings import queries
from handlers.nova.mappings.rules import Copy, MappingRow
from tests.services.nova import add, ago, database, url

SPEC = '{"text": "it\'s \\"100%\\" \\\\ of\\n :this ä"}\nand a line of its own; "quoted"\n'

__all__ = ["database", "url"]


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """One database that is nova_api and a cell at the same time; a build request has more columns than are known."""
    made = sa.create_engine(url)
    tables.api.create_all(made)
    tables.cell.create_all(made)
    with made.begin() as connection:
        connection.execute(sa.text("ALTER TABLE build_requests ADD COLUMN tags TEXT"))
    add(made, tables.cell_mappings, id=1, uuid=str(uuid.uuid4()), name="cell1", database_connection=url)
    add(made, tables.cell_mappings, id=2, uuid=str(uuid.uuid4()), name="cell2", database_connection=url)
    yield made
    made.dispose()


def rows(engine: sa.Engine) -> dict[str, list[dict[str, object]]]:
    """Everything but when mappings changed last."""
    found = {}
    with engine.connect() as connection:
        for name in ("instance_mappings", "build_requests", "request_specs", "instance_group_member"):
            read = connection.execute(sa.text(f"SELECT * FROM {name} ORDER BY id")).mappings()
            found[name] = [{**row, "updated_at": None} for row in read]
    return found


def undo(engine: sa.Engine, statements: list[str]) -> None:
    """As an operator would: the text goes to the server as it is."""
    raw = engine.raw_connection()
    cursor = raw.cursor()
    for statement in statements:
        cursor.execute(statement)
    raw.commit()
    raw.close()


def leave(engine: sa.Engine, instance: str, cell_id: int | None, queued: bool | None = False) -> None:
    values = {"instance_uuid": instance, "created_at": ago(hours=2)}
    add(
        engine,
        tables.instance_mappings,
        **values,
        cell_id=cell_id,
        project_id="p",
        user_id=None,
        queued_for_delete=queued,
    )
    add(engine, tables.request_specs, **values, spec=SPEC)
    add(engine, tables.instance_group_member, **values, group_id=4)


def mapping(database: Database, instance: str) -> MappingRow:
    return database.run(partial(queries.mappings_of, instances=[instance]))[instance]


def test_reading(engine: sa.Engine, database: Database, url: str) -> None:
    add(engine, tables.instances, uuid="i", project_id="p", host="a", created_at=ago(hours=2), updated_at=ago(hours=1))
    add(engine, tables.instances, uuid="d", project_id="p", deleted=2, created_at=ago(hours=2))
    add(engine, tables.instances, uuid="h", project_id="p", hidden=True)
    add(engine, tables.instances, uuid="n", project_id="p", hidden=None)
    leave(engine, "i", 1, None)
    leave(engine, "x", None)
    for instance in ("i", "x", "m"):
        add(engine, tables.build_requests, instance_uuid=instance, project_id="p", created_at=ago(minutes=5))

    page = database.run(partial(queries.instance_page, after=0))
    assert [instance for _, instance in page] == ["i", "d", "n"]
    assert database.run(partial(queries.instance_page, after=page[0][0], last=page[1][0])) == [page[1]]
    assert database.run(queries.instances_count) == 3
    assert database.run(partial(queries.mapped, instances=["i", "d", "x"])) == {"i", "x"}
    assert database.run(queries.misplaced_requests) == ["i", "m"]
    assert database.run(partial(queries.mapped_elsewhere, instances=["i", "x"], cell_id=2)) == ["i"]
    assert database.run(partial(queries.mapped_elsewhere, instances=["i", "x"], cell_id=1)) == []
    assert database.run(partial(queries.having, table=tables.request_specs, instances=["i", "d"])) == {"i"}
    add(engine, tables.request_specs, instance_uuid="lone", spec="{}", created_at=ago(hours=2))
    add(engine, tables.request_specs, instance_uuid="new", spec="{}", created_at=ago(minutes=2))
    lone = partial(queries.without_mapping, table=tables.request_specs, older_than=3600.0)
    assert database.run(lone) == (1, ["lone"])
    add(engine, tables.shadow_instances, id=7, uuid="gone", deleted=7, hidden=False)
    here = partial(queries.archived_here, instances=["i", "gone"])
    archived, alive = database.run(here)
    assert ([row.uuid for row in archived], alive) == (["gone"], True)
    assert database.run(queries.mappings_count) == 2
    found = database.run(partial(queries.mapping_page, after=0))
    assert [(row.instance, row.cell_id, row.queued) for row in found] == [("i", 1, None), ("x", None, False)]
    assert found[0].age == pytest.approx(7200, abs=10)
    assert [row.instance for row in database.run(partial(queries.mapping_page, after=found[0].id))] == ["x"]
    [copy] = database.run(partial(queries.copies, cell_id=1, instances=["i"]))
    assert isinstance(copy, Copy)
    assert copy.created_age == pytest.approx(7200, abs=10)
    assert copy.age == pytest.approx(3600, abs=10)

    databases = NovaDatabases(url)
    facts = queries.read(databases, ["i", "d", "x", "nobody"])
    databases.close()
    assert [len(known.copies) for known in facts.values()] == [2, 2, 0, 0], "both cells are the same database here"
    assert facts["i"].request_age == pytest.approx(300, abs=10)
    assert facts["nobody"].mapping is None


def test_inserting(engine: sa.Engine, database: Database) -> None:
    leave(engine, "a", 1)
    new = [
        {"instance_uuid": name, "cell_id": 2, "project_id": "p", "user_id": None, "queued_for_delete": name == "c"}
        for name in ("a", "b", "c")
    ]
    assert database.run(partial(queries.insert_mappings, rows=new)) == ["b", "c"]
    assert database.run(partial(queries.insert_mappings, rows=new)) == []
    assert mapping(database, "a").cell_id == 1
    assert (mapping(database, "c").queued, mapping(database, "b").queued) == (True, False)
    assert mapping(database, "c").age < 10, "in UTC"
    with pytest.raises(IntegrityError):
        database.run(partial(queries.insert_mappings, rows=[{**new[0], "instance_uuid": "z", "cell_id": 77}]))


def test_only_one_of_two_inserts(engine: sa.Engine, database: Database) -> None:
    new = [
        {"instance_uuid": str(number), "cell_id": 1, "project_id": "p", "user_id": "u", "queued_for_delete": False}
        for number in range(300)
    ]
    inserted: list[int] = []
    start = threading.Barrier(3)

    def race() -> None:
        start.wait()
        try:
            inserted.append(len(database.run(partial(queries.insert_mappings, rows=new))))
        except IntegrityError:
            inserted.append(0)

    threads = [threading.Thread(target=race) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(inserted) == [0, 0, 300]
    assert database.run(queries.mappings_count) == 300


def test_a_change_and_its_undo(engine: sa.Engine, database: Database) -> None:
    leave(engine, "i", None, True)
    leave(engine, "j", 1, None)
    add(engine, tables.build_requests, instance_uuid="i", project_id="p", instance=SPEC, created_at=ago(hours=1))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE build_requests SET tags = 'a%b'"))
    old, before = mapping(database, "i"), rows(engine)
    values: dict[str, int | bool] = {"cell_id": 2, "queued_for_delete": False}
    undoing = partial(queries.undo_of_change, before=old, values=values, drop_request=True)
    statements = database.run(undoing)
    change = partial(queries.change_mapping, before=old, undo="\n".join(statements))
    with pytest.raises(Conflict):
        database.run(partial(queries.change_mapping, before=old, values=values, drop_request=True, undo=statements[0]))
    assert rows(engine) == before, "an undo that is not whole stops the change"
    database.run(partial(change, values=values, drop_request=True))
    new = mapping(database, "i")
    assert (new.cell_id, new.queued) == (2, False)
    assert rows(engine)["build_requests"] == []
    after = rows(engine)
    for row, request in ((old, False), (new, True)):
        again = partial(queries.undo_of_change, before=row, values={"cell_id": 1}, drop_request=request)
        known = "\n".join(database.run(again))
        with pytest.raises(Conflict):
            database.run(
                partial(queries.change_mapping, before=row, values={"cell_id": 1}, drop_request=request, undo=known)
            )
    assert rows(engine) == after
    undo(engine, statements)
    assert rows(engine) == before
    other = mapping(database, "j")
    mark: dict[str, int | bool] = {"queued_for_delete": True}
    known_undo = database.run(partial(queries.undo_of_change, before=other, values=mark, drop_request=False))
    database.run(
        partial(queries.change_mapping, before=other, values=mark, drop_request=False, undo="\n".join(known_undo))
    )
    undo(engine, known_undo)
    assert rows(engine) == before


def test_a_deletion_and_its_undo(engine: sa.Engine, database: Database) -> None:
    leave(engine, "i", None)
    leave(engine, "j", 2, True)
    before = rows(engine)
    lost, other = mapping(database, "i"), mapping(database, "j")
    known = database.run(partial(queries.undo_of_forget, instances=["i", "j"]))
    forget = partial(queries.forget, rows=[lost])
    assert database.run(partial(forget, undo="\n".join(known["i"][:-1]))) == {}
    assert rows(engine) == before, "an undo that is not whole stops the deletion"
    statements = database.run(partial(forget, undo="\n".join(known["i"])))
    assert statements == {"i": known["i"]}
    assert {row["instance_uuid"] for found in rows(engine).values() for row in found} == {"j"}
    assert database.run(partial(forget, undo="\n".join(known["i"]))) == {}
    undo(engine, statements["i"])
    assert rows(engine) == before
    add(engine, tables.build_requests, instance_uuid="j", project_id="p")
    before = rows(engine)
    assert database.run(partial(queries.forget, rows=[other], undo="\n".join(known["j"]))) == {}
    assert rows(engine) == before
    both = database.run(partial(queries.forget, rows=[lost, other], undo="\n".join([*known["i"], *known["j"]])))
    assert both == {"i": known["i"]}
    assert {row["instance_uuid"] for found in rows(engine).values() for row in found} == {"j"}
