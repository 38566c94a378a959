"""A replica as a process of its own: python -m tests.functional.journal.replica REVISION URL NAME FOLDER

It mends each thing whose file is in the folder ``broken``, by a rename to the folder ``mended``. It ends with its input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from tests.functional.journal import first


def main(revision: str, url: str, name: str, folder: Path) -> None:
    if revision == first.FIRST:
        first.become_first()
    database = Database(open_engine(url))
    migrations.check(database)

    # Not earlier, because these modules import the tables.
    from consumer.journal import replicas
    from handlers.base import Conflict, Finding, Handler, Healed, Key
    from tests.doubles import Mender, World
    from tests.functional.engine.machine import Machine

    class Folders(Mender):
        def inspect(self, key: Key) -> Iterator[Finding]:
            if (folder / "broken" / key.id).exists():
                yield Finding(key, "broken", f"{key.id} is broken", {"generation": 1})

        def sweep(self) -> Iterator[Key]:
            yield from (Key("thing", name) for name in sorted(os.listdir(folder / "broken")))

        def population(self) -> int:
            return 1000

        def heal(self, finding: Finding) -> Healed:
            thing = finding.key.id
            try:
                (folder / "broken" / thing).rename(folder / "mended" / thing)
            except FileNotFoundError:
                raise Conflict(f"{thing} has changed") from None
            return Healed(f"mended {thing}", {"generation": 1}, {"generation": 0}, f"break {thing}")

    class Replica(Machine):
        def handlers(self) -> list[Handler]:
            return [Folders(World())]

    if revision == first.FIRST:
        first.register_first(database, name)
    else:
        replicas.register(database, name, "0.2.0", revision)
    machine = Replica(database, World(), replica=name)
    machine.start()
    print("ready", flush=True)
    sys.stdin.read()
    machine.stop()
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
