"""Compares the privileges that a database account has and needs, and writes GRANT statements for missing privileges.

Besides :attr:`~handlers.base.Handler.rights`, every handler needs SELECT on all tables. The check asks MariaDB and MySQL by
SHOW GRANTS, and PostgreSQL by ``has_table_privilege``, which includes the privileges of groups.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import EVERY_TABLE, Checked, Handler, HandlerError, Verdict

#: privileges by table; :data:`~handlers.base.EVERY_TABLE` stands for every table of the database
Needs = Mapping[str, frozenset[str]]

ALL = "ALL PRIVILEGES"
#: the account of the documented statements, and its name in PostgreSQL
ACCOUNT = "'stackmend'@'%'"
ROLE = "stackmend"

_READING = frozenset({"SELECT"})
_ASKED = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
# GRANT SELECT, UPDATE (a, b) ON `db`.`table` TO ...; grants of roles and on routines look different
_LINE = re.compile(r"GRANT (?P<what>.+?) ON (?P<schema>\*|`(?:[^`]|``)*`)\.(?P<table>\*|`(?:[^`]|``)*`) TO ")
_COLUMNS = re.compile(r"[A-Z ]+\([^)]*\),?")


@dataclass(frozen=True, slots=True)
class Account:
    """A database account and its privileges.

    :param name: the account as GRANT writes it
    :param schema: the database as GRANT writes it
    :param there: the tables that the account can see
    :param every: how GRANT names all tables; if empty, ``schema.*``
    :param server: privileges on all databases
    :param whole: privileges on every table of this database
    :param tables: privileges on single tables, by table
    """

    name: str
    schema: str
    there: frozenset[str]
    every: str = ""
    server: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    tables: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def lacks(self, table: str, wanted: frozenset[str]) -> frozenset[str]:
        """Return the ``wanted`` privileges that the account lacks on a table.

        :param table: a name, or ``*`` for all tables
        """
        has = self.server | self.whole | self.tables.get(table, frozenset())
        return frozenset() if ALL in has else wanted - has


def rights_of(handlers: Iterable[type[Handler]], database: str) -> list[Needs]:
    """Return the privileges that each handler's heals need in a database, by table; omit handlers that need none there.

    :param database: ``nova_api``, ``cell`` or ``octavia``
    """
    return [handler.rights[database] for handler in handlers if database in handler.rights]


def merged(needs: Iterable[Needs]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for one in needs:
        for table, privileges in one.items():
            found[table] = found.get(table, frozenset()) | privileges
    whole = found.get(EVERY_TABLE, frozenset())
    rest = {table: privileges - whole for table, privileges in found.items() if table != EVERY_TABLE}
    return {EVERY_TABLE: whole | _READING, **{table: left for table, left in sorted(rest.items()) if left}}


def statements(schema: str, account: str, wanted: Needs, every: str = "") -> list[str]:
    """Return the GRANT statements that give an account the ``wanted`` privileges.

    :param schema: the database; in PostgreSQL, the schema
    :param account: ``'stackmend'@'%'``; in PostgreSQL, the name of a role
    """
    whole = every or f"{schema}.*"
    return [
        f"GRANT {', '.join(sorted(privileges))} ON {whole if table == EVERY_TABLE else f'{schema}.{table}'} TO {account};"
        for table, privileges in wanted.items()
    ]


class Asked(Protocol):
    """A database whose account :func:`check` examines."""

    def run(self, work: Callable[[Connection], Account | None]) -> Account | None:
        """Run ``work`` in its own transaction, and return its result."""


def check(name: str, database: Asked, needs: Iterable[Needs], most: Iterable[Needs] = ()) -> Iterator[Checked]:
    """Check the privileges of a database's account; yield nothing for SQLite, or if the database does not answer.

    :param needs: privileges that the handlers in the modes ``ask`` and ``heal`` need; a missing privilege is a failure
    :param most: privileges that all handlers would need in mode ``heal``. If the account has all ``needs``, a warning lists
        its privileges that are in neither ``needs`` nor ``most``
    """
    try:
        account = database.run(account_of)
    except HandlerError:
        return  # the check of the schema reports it
    if account is None:
        return
    needs = list(needs)
    subject = f"{name}: rights"
    # GRANT fails on a table that this release does not have.
    wanted = {
        table: privileges
        for table, privileges in merged(needs).items()
        if table == EVERY_TABLE or table in account.there
    }
    lacking = {table: left for table, privileges in wanted.items() if (left := account.lacks(table, privileges))}
    if lacking:
        what = "; ".join(f"{', '.join(sorted(left))} on {table}" for table, left in lacking.items())
        cure = " ".join(statements(account.schema, account.name, lacking, account.every))
        yield Checked(subject, Verdict.FAILURE, f"{account.name} lacks {what}: {cure}")
    elif more := _more(account, merged([*needs, *most])):
        least = " ".join(statements(account.schema, ACCOUNT if not account.every else ROLE, wanted, account.every))
        yield Checked(
            subject,
            Verdict.WARNING,
            f"{account.name} has privileges that no handler needs ({more}). Enough is: {least}",
        )
    else:
        yield Checked(subject, Verdict.OK, "the account has what the handlers need, and nothing that none needs")


def _more(account: Account, wanted: Needs) -> str:
    found = [(account.server - {"USAGE"}, "everything"), (account.whole - wanted[EVERY_TABLE], account.schema)]
    found += [
        (has - wanted[EVERY_TABLE] - wanted.get(table, frozenset()), table)
        for table, has in sorted(account.tables.items())
    ]
    return "; ".join(f"{', '.join(sorted(privileges))} on {where}" for privileges, where in found if privileges)


def account_of(connection: Connection) -> Account | None:
    readers: Mapping[str, Callable[[Connection], Account]] = {
        "mysql": _mysql,
        "mariadb": _mysql,
        "postgresql": _postgresql,
    }
    read = readers.get(connection.dialect.name)
    return read(connection) if read else None


def _mysql(connection: Connection) -> Account:
    user, schema = connection.exec_driver_sql("SELECT CURRENT_USER(), DATABASE()").one()
    name, _, host = user.rpartition("@")
    there = frozenset(sa.inspect(connection).get_table_names())
    lines = [str(line) for line in connection.exec_driver_sql("SHOW GRANTS").scalars()]
    return Account(f"'{name}'@'{host}'", schema, there, "", *parsed(lines, schema))


def parsed(lines: Iterable[str], schema: str) -> tuple[frozenset[str], frozenset[str], dict[str, frozenset[str]]]:
    """Return the privileges in the output of SHOW GRANTS: on all databases, on ``schema``, and by table of ``schema``.

    The function omits privileges on single columns, because handlers need whole tables.
    """
    server: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    tables: dict[str, frozenset[str]] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        privileges = frozenset(word.strip() for word in _COLUMNS.sub("", found["what"]).split(",")) - {"", "USAGE"}
        if found["schema"] == "*":
            server |= privileges
        elif not _pattern(found["schema"][1:-1]).fullmatch(schema):
            continue
        elif found["table"] == "*":
            whole |= privileges
        else:
            table = found["table"][1:-1].replace("``", "`")
            tables[table] = tables.get(table, frozenset()) | privileges
    return server, whole, tables


def _pattern(text: str) -> re.Pattern[str]:
    """Return a regular expression for the database name in a GRANT. Unless escaped, ``_`` is any character, ``%`` any text."""
    wild = {"_": ".", "%": ".*"}
    parts = re.findall(r"\\.|.", text.replace("``", "`"))
    return re.compile("".join(wild.get(part) or re.escape(part[-1]) for part in parts))


def _postgresql(connection: Connection) -> Account:
    asked = ", ".join(f"has_table_privilege(c.oid, '{one}')" for one in _ASKED)
    query = (
        f"SELECT c.relname, {asked} FROM pg_class c "
        "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')"
    )
    name, schema, everything = connection.exec_driver_sql(
        "SELECT quote_ident(current_user), quote_ident(current_schema()), rolsuper FROM pg_roles WHERE rolname = current_user"
    ).one()
    tables = {
        row[0]: frozenset(one for one, allowed in zip(_ASKED, row[1:], strict=True) if allowed)
        for row in connection.exec_driver_sql(query)
    }
    whole = frozenset.intersection(*tables.values()) if tables else frozenset()
    rest = {table: privileges - whole for table, privileges in tables.items() if privileges - whole}
    server = frozenset({ALL}) if everything else frozenset()
    return Account(name, schema, frozenset(tables), f"ALL TABLES IN SCHEMA {schema}", server, whole, rest)
