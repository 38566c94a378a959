"""A cell's tables, foreign keys and shadow tables, read from the database because releases differ."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from cachetools import TTLCache
from sqlalchemy.sql import ColumnElement

from handlers.access import schemas
from handlers.access.database import Database
from handlers.base import Unavailable

SHADOW = "shadow_"
INSTANCES = "instances"
TASK_LOG = "task_log"

#: databases whose schemas are remembered: one has about 200 tables, and takes some megabytes
_REMEMBERED = 8

#: tables that no Nova since Yoga has a model of, so that the meaning of their deleted rows is not known
REMOVED = frozenset(
    {
        "agent_builds",
        "aggregate_hosts",
        "aggregate_metadata",
        "aggregates",
        "allocations",
        "bw_usage_cache",
        "cells",
        "console_pools",
        "consoles",
        "dns_domains",
        "fixed_ips",
        "floating_ips",
        "instance_group_member",
        "instance_group_policy",
        "instance_groups",
        "instance_type_extra_specs",
        "instance_type_projects",
        "instance_types",
        "inventories",
        "key_pairs",
        "networks",
        "provider_fw_rules",
        "resource_provider_aggregates",
        "resource_providers",
        "security_group_default_rules",
        "snapshot_id_mappings",
        "snapshots",
        "volume_id_mappings",
    }
)


@dataclass(frozen=True, slots=True)
class Reference:
    constraint: str
    child: sa.Table
    column: sa.Column[Any]
    parent: sa.Table
    parent_column: sa.Column[Any]


class Schema:
    def __init__(self, metadata: sa.MetaData) -> None:
        self.tables: Mapping[str, sa.Table] = metadata.tables
        live = [table for table in metadata.sorted_tables if not table.name.startswith(SHADOW)]
        self._order = [table for table in live if table.name != "alembic_version"]
        self._references = [
            Reference(str(key.name or f"{table.name}.{key.column_keys[0]}"), table, element.parent, *_target(element))
            for table in self._order
            for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
            if len(key.elements) == 1
            for element in key.elements
        ]

    @classmethod
    def read(cls, database: Database) -> Schema:
        """:raises Unavailable: the database does not answer, or is not that of a cell"""
        # SQLAlchemy leaves state on a connection that reads a schema, so that connection is closed.
        own = Database(database.name, database.url)
        metadata = sa.MetaData()
        try:
            own.run(metadata.reflect)
        finally:
            own.close()
        missing = {INSTANCES, SHADOW + INSTANCES} - set(metadata.tables)
        if missing:
            raise Unavailable(database.name, f"has no table {', '.join(sorted(missing))}; is its URL that of a cell?")
        return cls(metadata)

    def shadow(self, table: sa.Table) -> sa.Table | None:
        return self.tables.get(SHADOW + table.name)

    def shadows(self) -> list[sa.Table]:
        """Return all shadow tables, even those of tables that Nova no longer has."""
        return [table for name, table in sorted(self.tables.items()) if name.startswith(SHADOW)]

    def archivable(self, task_log: bool = False) -> list[sa.Table]:
        """Return the tables to archive: first ``instances``, then each table before those that refer to it."""
        found = [table for table in self._order if self._soft_deletes(table) and table.name not in REMOVED]
        found = [table for table in found if table.name != TASK_LOG or task_log]
        return sorted(found, key=lambda table: table.name != INSTANCES)

    def _soft_deletes(self, table: sa.Table) -> bool:
        deleted = table.c.get("deleted")
        return (
            deleted is not None
            and isinstance(deleted.type, sa.Integer)
            and "deleted_at" in table.c
            and self.shadow(table) is not None
            and len(table.primary_key.columns) == 1
        )

    def children(self, table: sa.Table) -> list[Reference]:
        return [reference for reference in self._references if reference.parent is table]

    def parents(self, table: sa.Table) -> list[Reference]:
        return [reference for reference in self._references if reference.child is table]

    def blockers(self, table: sa.Table) -> list[Reference]:
        return [reference for reference in self.children(table) if self.shadow(reference.child) is None]

    def below(self, root: sa.Table) -> list[sa.Table]:
        """Return the tables that refer to ``root``, even indirectly: each before those that refer to it."""
        inside = {root}
        for _ in self._order:
            inside |= {reference.child for reference in self._references if reference.parent in inside}
        return [table for table in self._order if table in inside and table is not root]

    def due(self, table: sa.Table, before: datetime) -> ColumnElement[bool]:
        """Return the SQL condition for rows that are roots of trees to archive.

        A root is :func:`old` and refers to no deleted row. No row of a table without a shadow table refers to it.
        """
        if table.name == TASK_LOG:
            return old(table, before)
        conditions = [old(table, before)]
        for reference in self.parents(table):
            parent = reference.parent.alias()
            if self._soft_deletes(reference.parent) and reference.parent is not table:
                same = parent.c[reference.parent_column.name] == reference.column
                conditions.append(~sa.exists().where(same, parent.c.deleted != 0))
        for reference in self.blockers(table):
            conditions.append(~sa.exists().where(reference.column == reference.parent_column))
        return sa.and_(*conditions)


class RecentSchemas:
    """Remembers schemas of databases for a minute, so that a sweep, its inspections and heals share them. Thread-safe.

    Each use reads the database's revision, and reads the schema again if the revision has changed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: by the database's URL and its revision
        self._known: TTLCache[tuple[str, frozenset[str]], Schema] = TTLCache(_REMEMBERED, schemas.TTL)

    def of(self, database: Database) -> Schema:
        """:raises Unavailable: the database does not answer, or is not that of a cell"""
        now = database.url, database.run(schemas.revisions)
        with self._lock:
            known = self._known.get(now)
        if known is None:
            known = Schema.read(database)
            with self._lock:
                self._known[now] = known
        return known


def _target(element: sa.ForeignKey) -> tuple[sa.Table, sa.Column[Any]]:
    return element.column.table, element.column


def key(table: sa.Table) -> sa.Column[Any]:
    [column] = table.primary_key.columns
    return column


def converted(column: sa.Column[Any], target: sa.Column[Any]) -> ColumnElement[Any]:
    """Return a column as SQL, with a cast if ``target`` has another ENUM type, as shadow tables have in PostgreSQL."""
    one, other = column.type, target.type
    if isinstance(one, sa.Enum) and isinstance(other, sa.Enum) and one.name and one.name != other.name:
        return sa.cast(sa.cast(column, sa.Text), other)
    return column


def old(table: sa.Table, before: datetime) -> ColumnElement[bool]:
    """Return the SQL condition for rows deleted before ``before``, or in ``task_log`` last changed before it.

    A row without a date is never old.
    """
    if table.name == TASK_LOG:  # its rows are never deleted
        return table.c.updated_at < before
    return sa.and_(table.c.deleted != 0, table.c.deleted_at < before)
