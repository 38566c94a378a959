"""The page as a browser shows it: Chromium without a window reads it from a daemon's port."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from doc import browser, screenshots
from doc.browser import Scheme, View
from tests.functional.engine.conftest import journal, machine, world
from tests.functional.engine.machine import Machine, hint
from tests.functional.status.test_page import HOSTILE, full_page
from tests.functional.status.test_status import Daemon, daemon, patient
from tests.waiting import eventually

__all__ = ["daemon", "journal", "machine", "patient", "world"]


def _chromium(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt install chromium")
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    return subprocess.run(
        [chromium, *quiet, "--enable-logging=stderr", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_browser_shows_it_and_has_nothing_to_complain_of(daemon: Daemon, tmp_path: Path) -> None:
    machine = daemon.machine
    machine.world.things = {"a": 1, "glued": 1}
    machine.world.unhealable = frozenset({"glued"})
    machine.start()
    machine.enqueue(hint("a"), hint("glued"))
    eventually(machine.idle)
    ran = _chromium(tmp_path, "--dump-dom", f"http://127.0.0.1:{daemon.port}/")
    assert ran.returncode == 0, ran.stderr
    text = re.sub(r"<[^>]+>", " ", ran.stdout)
    for said in ("Brokers", "connected", "mender", "mended a", "break a", "thing:glued"):
        assert said in text, said
    # Whatever the page's own policy forbids, or is not there, the browser says on its console.
    assert not re.search(r"CONSOLE.*(Refused|violates|Failed to load)", ran.stderr), ran.stderr


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with axe-core and a driver of Chromium, which npm installs."""
    folder = tmp_path_factory.mktemp("npm")
    try:
        browser.install(folder)
    except browser.NoBrowser as missing:
        pytest.skip(str(missing))
    return folder


#: The widths of a telephone and of a desk, in both colour schemes.
VIEWS = [View(width, scheme) for width in (400, 1400) for scheme in Scheme]


def test_everyone_can_read_it_at_every_width_in_light_and_dark(
    machine: Machine, packages: Path, tmp_path: Path
) -> None:
    """axe-core finds no fault, nothing hangs over the edge of the window, and no text from outside runs."""
    page = tmp_path / "page.html"
    page.write_text(full_page(machine, "a" * 120 + HOSTILE))
    seen = browser.look(page.as_uri(), VIEWS, packages)
    assert [one.faults for one in seen] == [()] * len(VIEWS)
    assert all({"color-contrast", "region", "td-headers-attr", "svg-img-alt"} <= set(one.rules) for one in seen)
    assert [one.dark for one in seen] == [view.scheme is Scheme.DARK for view in VIEWS]
    assert max(one.over for one in seen) <= 0
    assert [one.complaints for one in seen] == [()] * len(VIEWS)


def test_the_browser_finds_faults_of_a_page_that_has_some(packages: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<title></title><p style='color: #ddd; width: 2000px'>faint<img src=x><script>console.log(1)</script>"
    )
    (seen,) = browser.look(page.as_uri(), [View(400, Scheme.LIGHT)], packages)
    assert {"color-contrast", "document-title", "html-has-lang", "image-alt"} <= {
        fault.partition(":")[0] for fault in seen.faults
    }
    assert seen.over > 1000
    assert "1" in seen.complaints


def test_the_pictures_of_the_documents_show_the_page(packages: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(screenshots.sample_page(tmp_path))
    views = [replace(view, picture=str(tmp_path / Path(view.picture).name)) for view in screenshots.VIEWS]
    seen = browser.look(page.as_uri(), views, packages)
    assert [one.faults for one in seen] == [()] * len(views)
    for view in screenshots.VIEWS:
        made = tmp_path / Path(view.picture).name
        assert 10_000 < made.stat().st_size < 500_000
        assert Path(view.picture).stat().st_size < 500_000
