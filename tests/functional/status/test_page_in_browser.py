"""The page as a browser shows it: Chromium without a window reads it from a daemon's port."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.functional.engine.conftest import journal, machine, world
from tests.functional.engine.machine import hint
from tests.functional.status.test_status import Daemon, daemon, patient
from tests.waiting import eventually

__all__ = ["daemon", "journal", "machine", "patient", "world"]


def _chromium(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium: apt install chromium")
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    return subprocess.run(
        [browser, *quiet, "--enable-logging=stderr", *arguments],
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


@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_hangs_over_the_edge_of_the_window(daemon: Daemon, tmp_path: Path, width: int) -> None:
    machine = daemon.machine
    machine.world.things = {"a" * 200: 1}
    machine.start()
    machine.enqueue(hint("a" * 200))
    eventually(machine.idle)
    _status, page = daemon.get("/")
    assert "a" * 200 in page
    # From a file, which has no policy, so that a script can measure.
    measured = tmp_path / "page.html"
    script = "<script>document.title = document.documentElement.scrollWidth - innerWidth + ' of ' + innerWidth</script>"
    measured.write_text(page + script)
    ran = _chromium(tmp_path, f"--window-size={width},900", "--dump-dom", measured.as_uri())
    [(over, inside)] = re.findall(r"<title>(-?\d+) of (\d+)</title>", ran.stdout)
    assert int(inside) <= width
    assert int(over) <= 0
