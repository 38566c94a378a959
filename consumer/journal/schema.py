"""The journal's tables. Times are doubles: seconds since the epoch, by the database's clock, ``hinted_at`` by the publisher's.

A change of the tables needs a migration, by the rule in ``migrations``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

from consumer.journal.database import storable

metadata = MetaData()

#: SQLite increments only INTEGER PRIMARY KEY.
_Id = BigInteger().with_variant(Integer, "sqlite")


class _LongText(TypeDecorator[str]):
    """Text of any origin, such as an error's: a character that the database refuses must not stop the whole write."""

    # MariaDB's TEXT ends at 64 kB; evidence can be longer.
    impl = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


_Long = _LongText()
_Bytes = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


#: Independent of the database's default character set.
_TABLE: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}


def _exact(length: int) -> String:
    """Return a string type that compares byte by byte, because host names that differ only in case can name two hosts."""
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


work = Table(
    "work",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("handler", _exact(64), nullable=False),
    Column("key", _exact(300), nullable=False),
    # pending: to be inspected; reported: waits for an operator; parked: failed too often
    Column("state", String(16), nullable=False, default="pending"),
    Column("priority", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False, default=1),
    Column("not_before", Double, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("waits", Integer, nullable=False, default=0),
    # seconds spent waiting for an object in flight, since the last event or result
    Column("watched", Double, nullable=False, default=0.0),
    Column("owner", String(64)),
    Column("token", String(32)),
    Column("lease_until", Double),
    Column("fingerprint", String(64)),
    Column("seen_at", Double),
    # the fingerprint that the history already contains
    Column("reported", String(64)),
    # the last result was a drift that may not be healed
    Column("refused", Boolean, nullable=False, default=False),
    Column("healing_id", BigInteger),
    Column("error", _Long),
    Column("hint", String(128), nullable=False),
    Column("hint_id", String(64)),
    Column("hinted_at", Double),
    Column("first_hint_at", Double, nullable=False),
    Column("last_hint_at", Double, nullable=False),
    UniqueConstraint("handler", "key", name="uniq_work0handler0key"),
    # in the order of claims
    Index("work_due_idx", "handler", "state", "priority", "not_before", "id"),
    Index("work_token_idx", "token"),
    Index("work_healing_idx", "healing_id"),
    **_TABLE,
)

history = Table(
    "history",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("handler", _exact(64), nullable=False),
    Column("key", _exact(300), nullable=False),
    Column("outcome", String(16), nullable=False),
    # how many objects the heal changes
    Column("weight", Integer, nullable=False, default=1),
    Column("problem", String(64), nullable=False),
    Column("summary", _Long, nullable=False),
    Column("evidence", _Long, nullable=False),
    Column("action", _Long),
    Column("before", _Long),
    Column("after", _Long),
    Column("undo", _Long),
    Column("plan", _Long),
    Column("error", _Long),
    # the person who asked for the heal, or approved it
    Column("operator", String(255)),
    # the request id of the inspection, which the cloud's APIs also log
    Column("request_id", String(64)),
    Column("hint", String(128), nullable=False),
    Column("hint_id", String(64)),
    Column("hinted_at", Double),
    # of an open entry: when the one-shot command whose heal still runs last renewed it
    Column("closed_at", Double),
    Column("lag", Double),
    Column("replica", String(64), nullable=False),
    Index("history_at_idx", "at"),
    Index("history_key_idx", "key", "at"),
    Index("history_budget_idx", "handler", "outcome", "at"),
    Index("history_outcome_idx", "outcome", "at"),
    Index("history_request_idx", "request_id"),
    # the newest entries of one handler, in the order of ids
    Index("history_handler_idx", "handler", "id"),
    **_TABLE,
)

dead_event = Table(
    "dead_event",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("broker", String(255), nullable=False),
    Column("exchange", String(255), nullable=False),
    Column("routing_key", String(255), nullable=False),
    Column("reason", String(500), nullable=False),
    # bytes received, and bytes in body
    Column("size", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("body", _Bytes, nullable=False),
    Index("dead_event_at_idx", "at"),
    # so that the sum of all sizes reads no body
    Index("dead_event_stored_idx", "stored"),
    **_TABLE,
)

task = Table(
    "task",
    metadata,
    Column("name", _exact(64), primary_key=True),
    Column("paused", Boolean, nullable=False, default=False),
    Column("broken", Boolean, nullable=False, default=False),
    Column("reason", _Long),
    # sweeps in a row that listed few suspects since the breaker stopped it; null: only an operator resumes it
    Column("calm_sweeps", Integer),
    Column("since", Double),
    Column("swept_at", Double),
    Column("sweep_seconds", Double),
    Column("sweep_found", Integer),
    Column("sweep_population", Integer),
    # the dependencies that ended the last sweep early, as a JSON list; whether it listed all else; when it began
    Column("missing", _Long),
    Column("only_missing", Boolean),
    Column("missed_at", Double),
    Column("serial", BigInteger, nullable=False, default=0),
    # when the last of the heals that wait for the budget may ask the gates again
    Column("deferred_until", Double),
    **_TABLE,
)

notification_format = Table(
    "notification_format",
    metadata,
    Column("broker", _exact(255), primary_key=True),
    Column("format", _exact(16), primary_key=True),
    Column("at", Double, nullable=False),
    **_TABLE,
)

replica = Table(
    "replica",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(32), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
    # the revision of the journal's schema that its program needs; null: 0001, whose programs do not write this column
    Column("revision", String(32)),
    **_TABLE,
)

ask = Table(
    "ask",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("handler", _exact(64), nullable=False),
    Column("key", _exact(300), nullable=False),
    Column("problem", _exact(64), nullable=False),
    # the fingerprint of the finding that an operator approves or denies
    Column("fingerprint", String(64), nullable=False),
    # waiting, approved or denied
    Column("state", String(16), nullable=False),
    Column("at", Double, nullable=False),
    # an older ask cannot be approved, and an older approval heals nothing
    Column("expires_at", Double, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("summary", _Long, nullable=False),
    Column("evidence", _Long, nullable=False),
    Column("plan", _Long),
    Column("undo", _Long),
    Column("operator", String(255)),
    Column("reason", _Long),
    Column("decided_at", Double),
    UniqueConstraint("handler", "key", "problem", name="uniq_ask0handler0key0problem"),
    Index("ask_expires_idx", "expires_at"),
    # an id that an operator saw must never name another ask
    sqlite_autoincrement=True,
    **_TABLE,
)

exemption = Table(
    "exemption",
    metadata,
    Column("id", _Id, primary_key=True),
    # a key, or host:..., project:..., cell:..., problem:...
    Column("scope", _exact(300), nullable=False, unique=True),
    Column("at", Double, nullable=False),
    # null: until an operator removes it
    Column("until", Double),
    Column("operator", String(255), nullable=False),
    Column("reason", _Long, nullable=False),
    sqlite_autoincrement=True,
    **_TABLE,
)

watermark = Table(
    "watermark",
    metadata,
    # the name of the cloud database
    Column("database", _exact(255), primary_key=True),
    Column("at", Double, nullable=False),
    Column("body", _Long, nullable=False),
    **_TABLE,
)

webhook = Table(
    "webhook",
    metadata,
    Column("sink", _exact(64), primary_key=True),
    # the sink gets the history entries with this outcome
    Column("outcome", _exact(16), primary_key=True),
    **_TABLE,
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("sink", _exact(64), nullable=False),
    # a history entry, and the outcome that it had then
    Column("line_id", BigInteger, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("at", Double, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("token", String(32)),
    Column("lease_until", Double),
    Column("error", _Long),
    # a sink's messages leave in this order
    Index("delivery_sink_idx", "sink", "id"),
    # a receiver recognises a repetition by the id
    sqlite_autoincrement=True,
    **_TABLE,
)

compatibility = Table(
    "compatibility",
    metadata,
    # a revision of this schema, and the oldest revision whose programs may use the journal from then on
    Column("revision", String(32), primary_key=True),
    Column("oldest", String(32), nullable=False),
    **_TABLE,
)
