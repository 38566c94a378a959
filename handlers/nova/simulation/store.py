from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData, Row, Table, create_engine, delete, event, insert, select, true, update
from sqlalchemy.dialects import registry
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import ColumnElement

from handlers.nova import tables


class Store:
    """Reads and writes rows, and sets timestamps as Nova's models do.

    :param cells: names of all cells, cell0 included
    """

    #: heads of Nova's migrations, 2025.1 to 2026.1
    API_REVISION = "cdeec0c85668"
    CELL_REVISION = "2903cd72dc14"

    def __init__(self, folder: Path, cells: Sequence[str]) -> None:
        self._folder = folder
        self.age = timedelta(0)
        self.api = self._engine("nova_api")
        self.cells: Mapping[str, Engine] = {name: self._engine(name) for name in cells}

    def create(self) -> None:
        """Make the tables (``nova-manage api_db sync``, ``db sync``)."""
        self._create(self.api, tables.api, tables.api_version, self.API_REVISION)
        for engine in self.cells.values():
            self._create(engine, tables.cell, tables.cell_version, self.CELL_REVISION)

    def close(self) -> None:
        for engine in (self.api, *self.cells.values()):
            engine.dispose()

    def url(self, database: str) -> str:
        return f"sqlite:///{(self._folder / database).absolute()}.db"

    def now(self) -> datetime:
        """Return the present time minus :attr:`age`, in naive UTC and whole seconds, as in MySQL."""
        return (datetime.now(UTC) - self.age).replace(tzinfo=None, microsecond=0)

    def rows(self, engine: Engine, table: Table, where: ColumnElement[bool] | None = None) -> Sequence[Row[Any]]:
        query = select(table).where(true() if where is None else where).order_by(table.c.id)
        with engine.connect() as connection:
            return connection.execute(query).all()

    def find(self, table: Table, where: ColumnElement[bool]) -> tuple[Row[Any], str]:
        for name, engine in self.cells.items():
            for row in self.rows(engine, table, where):
                return row, name
        raise LookupError(f"no such row in {table.name} of any cell")

    def insert(self, engine: Engine, table: Table, **values: Any) -> None:
        self.insert_together(engine, {table: values})

    def insert_together(self, engine: Engine, rows: Mapping[Table, Mapping[str, Any]]) -> None:
        with engine.begin() as connection:
            for table, values in rows.items():
                connection.execute(insert(table).values({"created_at": self.now(), **values}))

    def update(self, engine: Engine, table: Table, where: ColumnElement[bool], **values: Any) -> None:
        with engine.begin() as connection:
            connection.execute(update(table).where(where).values({"updated_at": self.now(), **values}))

    def delete(self, engine: Engine, table: Table, where: ColumnElement[bool]) -> None:
        with engine.begin() as connection:
            connection.execute(delete(table).where(where))

    def _engine(self, database: str) -> Engine:
        engine = create_engine(self.url(database), connect_args={"timeout": 30})

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")

        return engine

    @staticmethod
    def _create(engine: Engine, schema: MetaData, version: Table, revision: str) -> None:
        with engine.begin() as connection:
            for statement in _statements(schema, f"{engine.dialect.name}.{engine.dialect.driver}"):
                connection.exec_driver_sql(statement)
            connection.execute(insert(version).values(version_num=revision))


@cache
def _statements(schema: MetaData, name: str) -> tuple[str, ...]:
    dialect = registry.load(name)()
    tables = [str(CreateTable(table).compile(dialect=dialect)) for table in schema.sorted_tables]
    indexes = [index for table in schema.sorted_tables for index in table.indexes]
    return (*tables, *(str(CreateIndex(index).compile(dialect=dialect)) for index in indexes))
