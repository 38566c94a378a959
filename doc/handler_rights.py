"""Writes the reStructuredText of the rights and roles that the handlers need, from their class attributes."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import indent

from doc.rst import codes, list_table
from handlers.base import EVERY_TABLE, Handler, Mode, Role
from handlers.checks import grants

#: The databases of the documented statements: their names there, and in :data:`~handlers.base.Rights`.
DATABASES = {"nova_api": "nova_api", "nova_cell1": "cell", "octavia": "octavia"}


def statements(handlers: Iterable[type[Handler]], mode: Mode) -> list[str]:
    """Return the SQL statements for an account that handlers need in a mode."""
    healing = list(handlers) if mode is Mode.HEAL else []
    return [
        f"CREATE USER IF NOT EXISTS {grants.ACCOUNT} IDENTIFIED BY 'SECRET';",
        *(
            statement
            for schema, database in DATABASES.items()
            for statement in grants.statements(
                schema, grants.ACCOUNT, grants.merged(grants.rights_of(healing, database))
            )
        ),
    ]


def sql(handlers: Iterable[type[Handler]], mode: Mode) -> str:
    """Return these statements as a code block."""
    lines = "\n".join(statements(handlers, mode))
    return f".. code-block:: sql\n\n{indent(lines, '   ')}"


def privileges(handler: type[Handler]) -> str:
    """Return the tables that a handler writes, with the privileges; empty when it writes into no database."""
    return "; ".join(
        f"{', '.join(sorted(needed))} on {_table(table)} ({'each cell' if database == 'cell' else database})"
        for database, tables in handler.rights.items()
        for table, needed in tables.items()
    )


def _table(table: str) -> str:
    return "every table" if table == EVERY_TABLE else f"``{table}``"


def table(handlers: Iterable[type[Handler]]) -> str:
    """Return the table of the privileges of each handler that writes into a database."""
    rows = [(f"``{handler.name}``", privileges(handler)) for handler in handlers if handler.rights]
    return list_table([("Handler", "Writes"), *rows], ":header-rows: 1", ":widths: 30 70")


def roles(handlers: Iterable[type[Handler]]) -> str:
    """Return the table of the Keystone roles, each with the handlers that need it."""
    needed: dict[tuple[Role, str], list[str]] = {}
    for handler in handlers:
        for role in handler.roles.inspect:
            needed.setdefault((role, ""), []).append(handler.name)
        for role in handler.roles.heal:
            needed.setdefault((role, " in mode ``heal``"), []).append(handler.name)
    rows = [
        (f"{codes(names)}{mode}", codes(role.any_of, " or "), role.purpose) for (role, mode), names in needed.items()
    ]
    return list_table([("Handlers", "Role", "For"), *rows], ":header-rows: 1", ":widths: 45 20 35")
