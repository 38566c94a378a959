"""SQL about instance mappings.

Updates and deletions of mappings have the old values in their conditions. If no row has these values, or ``undo`` would not
restore the rows, :func:`change_mapping` raises :class:`~handlers.base.Conflict`, and :func:`forget` skips the instance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since, time_before, utcnow
from handlers.access.sql_text import Writing, as_typed
from handlers.base import Conflict, Unavailable
from handlers.nova import concerns, tables
from handlers.nova.database import API, NovaDatabases
from handlers.nova.mappings.rules import Copy, Facts, MappingRow
from handlers.nova.queries import NOW, ArchivedRow, archived_instances, chunks

#: rows read at a time
PAGE = 1000
#: instances that a finding about many names
NAMED = 20
#: the tables of nova_api that lose a deleted instance
FORGOTTEN = (tables.instance_mappings, tables.request_specs, tables.instance_group_member)


def read(databases: NovaDatabases, instances: Collection[str]) -> dict[str, Facts]:
    """Return facts by instance. The mappings are read before the cells: otherwise a boot could look like a lost instance.

    :raises Unavailable: a cell does not answer, or a mapping names a cell that is not in ``cell_mappings``
    """
    cells = databases.cells()
    for cell in cells:
        databases.observe_clocks(cell)
    mappings, requests, specified = databases.api.run(
        lambda connection: (
            mappings_of(connection, instances),
            request_ages(connection, instances),
            having(connection, tables.request_specs, instances),
        )
    )
    known = {cell.id for cell in cells}
    strange = {row.cell_id for row in mappings.values() if row.cell_id is not None} - known
    if strange:
        raise Unavailable(API, f"there are mappings to the cell {min(strange)}, which is not in cell_mappings")
    found: dict[str, list[Copy]] = {}
    for cell in cells:
        for copy in databases.database(cell).run(partial(copies, cell_id=cell.id, instances=instances)):
            found.setdefault(copy.uuid, []).append(copy)
    names = {cell.id: concerns.of_cell(cell) for cell in cells}
    return {
        uuid: _named(
            Facts(mappings.get(uuid), requests.get(uuid), tuple(found.get(uuid, ())), specified=uuid in specified),
            uuid,
            names,
        )
        for uuid in dict.fromkeys(instances)
    }


def _named(facts: Facts, instance: str, cells: Mapping[int, frozenset[str]]) -> Facts:
    rows = [(copy.cell_id, concerns.of_row(copy.uuid, copy.project_id, copy.host, copy.node)) for copy in facts.copies]
    if facts.mapping is not None:
        rows.append((facts.mapping.cell_id or 0, concerns.named("project", facts.mapping.project_id)))
    known = (found | cells.get(cell_id, frozenset()) for cell_id, found in rows)
    return replace(facts, concerns=concerns.of_consumers(instance).union(*known))


# nova_api, reading


def mappings_of(connection: Connection, instances: Collection[str]) -> dict[str, MappingRow]:
    c = tables.instance_mappings.c
    return {
        row.instance: row for chunk in chunks(instances) for row in _mappings(connection, c.instance_uuid.in_(chunk))
    }


def mapping_page(connection: Connection, after: int, cells: Collection[int] | None = None) -> list[MappingRow]:
    """Return the page of mappings after the id ``after``; with ``cells``, a page of mappings to these cells."""
    c = tables.instance_mappings.c
    where = sa.true() if cells is None else c.cell_id.in_(cells)
    return _mappings(connection, sa.and_(c.id > after, where), PAGE)


def mapping_part(connection: Connection, first: int, last: int) -> list[MappingRow]:
    """Return the mappings with the ids ``first`` to ``last``, at most :data:`PAGE` + 1 of them."""
    return _mappings(connection, tables.instance_mappings.c.id.between(first, last), PAGE + 1)


def _mappings(connection: Connection, where: sa.ColumnElement[bool], limit: int | None = None) -> list[MappingRow]:
    c = tables.instance_mappings.c
    query = (
        sa.select(c.id, c.instance_uuid, c.project_id, c.cell_id, c.queued_for_delete, c.created_at, c.updated_at, NOW)
        .where(where)
        .order_by(c.id)
        .limit(limit)
    )
    return [
        MappingRow(
            row.id,
            row.instance_uuid,
            row.project_id,
            row.cell_id,
            None if row.queued_for_delete is None else bool(row.queued_for_delete),
            seconds_since(connection, row.now, row.created_at, row.updated_at),
        )
        for row in connection.execute(query)
    ]


def having(connection: Connection, table: sa.Table, instances: Collection[str]) -> set[str]:
    c = table.c.instance_uuid
    return {uuid for chunk in chunks(instances) for uuid in connection.scalars(sa.select(c).where(c.in_(chunk)))}


def mapped(connection: Connection, instances: Collection[str]) -> set[str]:
    return having(connection, tables.instance_mappings, instances)


def mapped_elsewhere(connection: Connection, instances: Collection[str], cell_id: int) -> list[str]:
    c = tables.instance_mappings.c
    query = sa.select(c.instance_uuid).where(c.cell_id.is_not(None), c.cell_id != cell_id).order_by(c.id)
    return [uuid for chunk in chunks(instances) for uuid in connection.scalars(query.where(c.instance_uuid.in_(chunk)))]


def mappings_count(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(tables.instance_mappings)).scalar_one())


def request_ages(connection: Connection, instances: Collection[str]) -> dict[str, float]:
    c = tables.build_requests.c
    found: dict[str, float] = {}
    for chunk in chunks(instances):
        query = sa.select(c.instance_uuid, c.created_at, NOW).where(c.instance_uuid.in_(chunk))
        found.update(
            {row.instance_uuid: seconds_since(connection, row.now, row.created_at) for row in connection.execute(query)}
        )
    return found


def misplaced_requests(connection: Connection) -> list[str]:
    """Return the instances that have a build request, and no mapping or a mapping to a cell."""
    b, m = tables.build_requests.c, tables.instance_mappings.c
    both = tables.build_requests.outerjoin(tables.instance_mappings, m.instance_uuid == b.instance_uuid)
    query = sa.select(b.instance_uuid).select_from(both)
    return list(connection.scalars(query.where(sa.or_(m.id.is_(None), m.cell_id.is_not(None))).order_by(b.id)))


def without_mapping(connection: Connection, table: sa.Table, older_than: float) -> tuple[int, list[str]]:
    """Return the number of a table's rows whose instance has no mapping, and up to :data:`NAMED` of these instances.

    :param older_than: seconds; younger rows can belong to a boot
    """
    c, m = table.c, tables.instance_mappings.c
    oldest = time_before(connection, connection.execute(sa.select(NOW)).scalar_one(), older_than)
    rows = table.outerjoin(tables.instance_mappings, m.instance_uuid == c.instance_uuid)
    lone = sa.and_(m.id.is_(None), c.instance_uuid.is_not(None), sa.or_(c.created_at.is_(None), c.created_at <= oldest))
    count = connection.execute(sa.select(sa.func.count()).select_from(rows).where(lone)).scalar_one()
    first = sa.select(c.instance_uuid).select_from(rows).where(lone).order_by(c.id).limit(NAMED)
    return int(count), list(connection.scalars(first))


# nova_api, writing


def insert_mappings(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Insert the mappings of instances that have none yet; return these instances.

    :raises IntegrityError: another process mapped an instance, or the cell is gone. The call inserted no mapping
    """
    there = mapped(connection, [row["instance_uuid"] for row in rows])
    missing = [row for row in rows if row["instance_uuid"] not in there]
    if missing:
        connection.execute(insertion(missing))
    return [row["instance_uuid"] for row in missing]


def insertion(rows: Sequence[Mapping[str, Any]]) -> sa.Insert:
    """Return the INSERT of mappings. Equal times mark a row as ours: Nova leaves ``updated_at`` NULL until a change."""
    times = {"created_at": utcnow(), "updated_at": utcnow()}
    return sa.insert(tables.instance_mappings).values([{**row, **times} for row in rows])


def undo_of_change(
    connection: Connection, before: MappingRow, values: Mapping[str, int | bool], drop_request: bool
) -> list[str]:
    table = tables.instance_mappings
    undo = []
    if values:
        old = {"cell_id": before.cell_id, "queued_for_delete": before.queued}
        # What Nova has changed since the heal stays.
        healed = [table.c[name] == sa.literal(value) for name, value in values.items()]
        restore = sa.update(table).where(table.c.id == before.id, table.c.instance_uuid == before.instance, *healed)
        undo.append(as_typed(connection.dialect, restore.values({name: old[name] for name in values})))
    if drop_request:
        restoring = _restoring(connection, tables.build_requests, [before.instance])
        undo += [statement for statements in restoring.values() for statement in statements]
    return undo


def change_mapping(
    connection: Connection, before: MappingRow, values: Mapping[str, int | bool], drop_request: bool, undo: str
) -> None:
    """Change a mapping, and delete the instance's build request if ``drop_request``.

    :raises Conflict: a row changed since it was read, or the SQL in ``undo`` does not restore the rows
    """
    if not _covers(undo, undo_of_change(connection, before, values, drop_request)):
        raise Conflict(f"the rows of instance {before.instance} in nova_api changed")
    changing, *dropping = changes(before, values, drop_request)
    if connection.execute(changing).rowcount != 1:
        raise Conflict(f"the mapping of instance {before.instance} changed")
    if any(not connection.execute(one).rowcount for one in dropping):
        raise Conflict(f"instance {before.instance} has no build request any more")


def changes(before: MappingRow, values: Mapping[str, int | bool], drop_request: bool) -> list[Writing]:
    """Return the UPDATE and DELETE statements of :func:`change_mapping`."""
    changing = sa.update(tables.instance_mappings).where(_as_it_was(before)).values({**values, "updated_at": utcnow()})
    return [changing, *([_deletion(tables.build_requests, before.instance)] if drop_request else [])]


def undo_of_forget(connection: Connection, instances: Collection[str]) -> dict[str, list[str]]:
    """Return, by instance, the SQL statements that restore its rows in the tables :data:`FORGOTTEN`."""
    undo: dict[str, list[str]] = {instance: [] for instance in instances}
    for table in FORGOTTEN:
        restoring = _restoring(connection, table, instances)
        for instance in undo:
            undo[instance] += restoring.get(instance.lower(), ())
    return undo


def forget(connection: Connection, rows: Collection[MappingRow], undo: str) -> dict[str, list[str]]:
    """Delete mappings, and the instances' other rows in nova_api.

    Skip an instance that has a build request, whose mapping changed, or whose rows the SQL in ``undo`` does not restore.

    :return: by deleted instance, the SQL statements that restore its rows
    """
    restoring = undo_of_forget(connection, [before.instance for before in rows])
    gone: dict[str, list[str]] = {}
    for before in rows:
        statements = restoring[before.instance]
        mapping, *others = deletions(before)
        if _covers(undo, statements) and connection.execute(mapping).rowcount == 1:
            for deletion in others:
                connection.execute(deletion)
            gone[before.instance] = statements
    return gone


def deletions(before: MappingRow) -> list[sa.Delete]:
    """Return the DELETE statements of :func:`forget`."""
    table, requests = tables.instance_mappings, tables.build_requests
    building = sa.exists().where(requests.c.instance_uuid == before.instance)
    mapping = sa.delete(table).where(_as_it_was(before), sa.not_(building))
    return [mapping, *(_deletion(leftover, before.instance) for leftover in FORGOTTEN[1:])]


def _covers(undo: str, statements: Collection[str]) -> bool:
    return all(statement in undo for statement in statements)


def _as_it_was(before: MappingRow) -> sa.ColumnElement[bool]:
    c = tables.instance_mappings.c
    return sa.and_(
        c.id == before.id,
        c.instance_uuid == before.instance,
        c.cell_id.is_(None) if before.cell_id is None else c.cell_id == before.cell_id,
        c.queued_for_delete.is_(None) if before.queued is None else c.queued_for_delete == sa.literal(before.queued),
    )


def _deletion(table: sa.Table, instance: str) -> sa.Delete:
    return sa.delete(table).where(table.c.instance_uuid == instance)


def _restoring(connection: Connection, table: sa.Table, instances: Collection[str]) -> dict[str, list[str]]:
    """Return the SQL statements that restore the instances' rows of a table, by instance in lower case.

    :raises Conflict: the database returns a row of an instance that is not in ``instances``
    """
    statements: dict[str, list[str]] = {}
    for chunk in chunks(instances):
        query = sa.select(sa.text("*")).select_from(table).where(table.c.instance_uuid.in_(chunk))
        for row in connection.execute(query).mappings():
            columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in row]
            values = {name: sa.null() if value is None else sa.literal(value) for name, value in row.items()}
            insertion = sa.insert(sa.table(table.name, *columns)).values(values)
            statements.setdefault(row["instance_uuid"].lower(), []).append(as_typed(connection.dialect, insertion))
    if strange := statements.keys() - {instance.lower() for instance in instances}:
        raise Conflict(f"a row of {table.name} names the instance {min(strange)}, which the database takes for another")
    return statements


# a cell


def copies(connection: Connection, cell_id: int, instances: Collection[str]) -> list[Copy]:
    """Return the instances' rows in a cell, deleted and hidden rows included."""
    c = tables.instances.c
    columns = (c.uuid, c.project_id, c.user_id, c.host, c.vm_state, c.task_state, c.deleted, c.hidden, c.node)
    times = (c.created_at, c.updated_at, c.deleted_at, c.terminated_at)
    return [
        Copy(
            row.uuid,
            cell_id,
            row.project_id,
            row.user_id,
            row.host,
            row.vm_state,
            row.task_state,
            bool(row.deleted),
            bool(row.hidden),
            seconds_since(connection, row.now, row.created_at),
            seconds_since(connection, row.now, row.created_at, row.updated_at, row.deleted_at),
            row.node,
            row.terminated_at is not None,
        )
        for chunk in chunks(instances)
        for row in connection.execute(sa.select(*columns, *times, NOW).where(c.uuid.in_(chunk)))
    ]


def archived_here(connection: Connection, instances: Collection[str]) -> tuple[list[ArchivedRow], bool]:
    """Return the instances' archived rows in a cell, from a full scan, and whether the cell has any live instance."""
    c = tables.instances.c
    alive = connection.execute(sa.select(c.id).where(c.deleted == 0).limit(1)).first() is not None
    return archived_instances(connection, instances), alive


def instance_page(connection: Connection, after: int, last: int | None = None) -> list[tuple[int, str]]:
    """Return ids and uuids of the page of instances after the id ``after``; omit hidden rows."""
    c = tables.instances.c
    query = sa.select(c.id, c.uuid).where(c.id > after, _visible()).order_by(c.id).limit(PAGE)
    if last is not None:
        query = query.where(c.id <= last)
    return [(row.id, row.uuid) for row in connection.execute(query)]


def instances_count(connection: Connection) -> int:
    query = sa.select(sa.func.count()).select_from(tables.instances).where(_visible())
    return int(connection.execute(query).scalar_one())


def _visible() -> sa.ColumnElement[bool]:
    hidden = tables.instances.c.hidden
    return sa.or_(hidden.is_(None), hidden == sa.false())
