from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from handlers.base.resources import Resources


@dataclass(frozen=True, slots=True)
class Rising:
    """Values of a database that only grow. If enough of them fall, the database is an older copy, or another one.

    :param label: a name for all values: ``generations of resource providers``
    :param witnesses: the values by name; each value that falls is a witness of an older copy
    :param quorum: number of values that must fall together to prove an older copy
    """

    label: str
    witnesses: Mapping[str, int]
    quorum: int


@dataclass(frozen=True, slots=True)
class Ids:
    """The highest id and the next id of a table.

    A database gives no id twice. So it is an older copy, or another one, if ``highest`` falls and ``next`` is an id that a row
    already had. A lower ``next`` alone proves nothing: on Galera, each writer has its own counter.

    :param highest: the highest id of a row, which falls when the newest row is purged; 0 without rows
    :param next: the least id that the next row can get
    """

    label: str
    highest: int
    next: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """Highest ids, rising values and some old rows of one database. stackmend compares them with the stored watermark.

    :param database: ``nova_api``, ``cell:<name>``, ``placement``, ``octavia_database``
    :param server: the server of a cluster that answered, for messages only
    :param anchors: values of old rows by name; a value never changes while the row exists
    """

    database: str
    server: str
    rising: tuple[Rising, ...] = ()
    anchors: Mapping[str, str] = field(default_factory=dict)
    ids: tuple[Ids, ...] = ()


#: Reads the watermarks of a service's databases (entry point ``stackmend.watermarks``). A database that does not answer is
#: left out: silence proves nothing.
Watermarks = Callable[[Resources], Iterable[Watermark]]
