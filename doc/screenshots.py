"""Makes the pictures of the status page in ``source/images``: ``python -m doc.screenshots``.

It needs Chromium, Node.js and npm. The page shows a journal with made-up entries, and no cloud.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from consumer import plugins
from consumer.bus.intake import Backlog
from consumer.bus.source import Source
from consumer.conf.bus import BusSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine import holds
from consumer.engine.holds import Board
from consumer.engine.task import Task
from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from consumer.status.inventories import Inventories
from consumer.status.page import Page
from doc import browser, sample_journal
from doc.browser import Scheme, View
from handlers.base import Broker, Handler, Hold, Mode

IMAGES = Path(__file__).parent / "source" / "images"
#: The sizes are those of the pictures.
VIEWS = (
    View(1400, Scheme.LIGHT, 1500, str(IMAGES / "page.png")),
    View(1400, Scheme.DARK, 1100, str(IMAGES / "page-dark.png")),
    View(400, Scheme.LIGHT, 1300, str(IMAGES / "page-narrow.png")),
)
_MODES = {"audit_ports": Mode.AUDIT, "audit_allocations": Mode.ASK}


def sample_page(folder: Path) -> str:
    """Return the HTML of a page with made-up entries.

    :param folder: for the journal
    """
    database = Database(open_engine(f"sqlite:///{folder}/journal.sqlite"))
    migrations.upgrade(database)
    sample_journal.fill(database)
    tasks = {task.name: task for task in map(_task, plugins.handlers()) if task.name in sample_journal.HANDLERS}
    board = Board([holds.Source("[engine] hold_file", lambda: [Hold("host:compute-7", "memory test until Friday")])])
    board.refresh()
    source = _source()
    html = Page(database, tasks, lambda: [source], Inventories(list), board).make().body
    database.close()
    return html


def _task(handler: type[Handler]) -> Task:
    # The page needs only the class attributes. The constructor would need databases and APIs.
    settings = TaskSettings(_MODES.get(handler.name, Mode.HEAL), 3600, Window(), 200)
    return Task(handler.__new__(handler), settings, _clock)


def _clock() -> datetime:
    return datetime.now(UTC)


def _source() -> Source:
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731
    source = Source(Broker("nova", "rabbit://localhost/", ("nova",)), BusSettings(), frozenset(), ignore, ignore)
    source.connected, source.problem = True, ""
    source.queues, source.missing = ("stackmend.info", "stackmend.error"), ()
    source.received, source.wanted, source.dead = 48_213, 9_120, 2
    source.backlog, source.last_message_at = Backlog(137, time.monotonic()), datetime.now(UTC)
    return source


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        browser.install(folder)
        page = folder / "page.html"
        page.write_text(sample_page(folder))
        browser.look(page.as_uri(), VIEWS, folder)


if __name__ == "__main__":
    main()
