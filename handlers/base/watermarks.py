from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from handlers.base.resources import Resources


@dataclass(frozen=True, slots=True)
class Rising:
    """Values of a database that never fall. If enough of them fall, stackmend reads an older copy or another database.

    :param label: a name for all values together: ``generations of resource providers``
    :param witnesses: the values by name; each value that falls is a witness of an older copy
    :param quorum: number of values that must fall together to prove an older copy
    """

    label: str
    witnesses: Mapping[str, int]
    quorum: int


@dataclass(frozen=True, slots=True)
class Ids:
    """The highest id and the next id of a table.

    A database gives each id once. If ``highest`` falls and ``next`` was already the id of a row, the database is an older copy
    or another database. A lower ``next`` alone proves nothing: on Galera, each server has its own counter.

    :param highest: the highest id of a row; 0 if the table is empty. A purge of the newest row lowers this id
    :param next: the lowest id that the next row can get
    """

    label: str
    highest: int
    next: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """The highest ids, rising values and some old rows of a database, which stackmend compares with those in the journal.

    :param database: ``nova_api``, ``cell:<name>``, ``placement``, ``octavia_database``
    :param server: the database server that answered, for messages
    :param anchors: values of old rows, by name. Such a value never changes while its row exists
    """

    database: str
    server: str
    rising: tuple[Rising, ...] = ()
    anchors: Mapping[str, str] = field(default_factory=dict)
    ids: tuple[Ids, ...] = ()


#: Reads the watermarks of a service's databases (entry point ``stackmend.watermarks``). A database that does not answer is
#: left out: silence proves nothing.
Watermarks = Callable[[Resources], Iterable[Watermark]]
