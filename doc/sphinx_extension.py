"""The Sphinx extension that inserts the generated text into the pages."""

from __future__ import annotations

from inspect import getfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumer import plugins
from doc import directives, handler_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("builder-inited", lambda app: write_missing_pages(Path(app.srcdir) / "handlers"))
    app.connect("source-read", _expand)
    return {"version": "1", "parallel_read_safe": True}


def write_missing_pages(folder: Path) -> None:
    """Give each handler of this tree a page, so that a new handler needs none written by hand."""
    for handler in plugins.handlers():
        path = folder / f"{handler.name}.rst"
        if handler.__module__.startswith("handlers.") and not path.exists():
            path.write_text(handler_pages.stub(handler.name))


def _expand(app: Sphinx, _page: str, source: list[str]) -> None:
    if directives.LINE.search(source[0]):
        handlers = plugins.handlers()
        source[0] = directives.expand(source[0], handlers)
        for handler in handlers:
            app.env.note_dependency(getfile(handler))
