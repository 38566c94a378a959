"""An upgrade that is killed after some writes: python -m tests.functional.journal.killed URL WRITES"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from typing import Any

from sqlalchemy import event

from consumer.journal import migrations
from consumer.journal.database import Database, open_engine

WRITES = ("CREATE", "ALTER", "INSERT", "UPDATE", "DROP")


def main(url: str, writes: int) -> None:
    engine = open_engine(url, statement_seconds=None)
    done = count(1)

    def after(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.strip().startswith(WRITES) and next(done) == writes:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "after_cursor_execute", after)
    migrations.upgrade(Database(engine))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
