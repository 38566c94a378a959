"""Shows a page in Chromium without a window, judges it with axe-core, and makes pictures of it.

``browser.mjs`` does the work, with two packages of npm that :func:`install` puts into a folder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

_PACKAGES = ("axe-core@4", "playwright-core@1")


class NoBrowser(Exception):
    """A program is missing; the text names it and says how to install it."""


class Scheme(StrEnum):
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True, slots=True)
class View:
    """How to show the page. Sizes are in pixels.

    :param picture: the file of the screenshot; empty for none
    """

    width: int
    scheme: Scheme
    height: int = 900
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """The page in one view.

    :param over: pixels by which the content is wider than the window; 0 or less if it fits
    :param dark: whether the page got the dark colours
    :param faults: the violations that axe-core found, with the HTML of each
    :param rules: the rules of axe-core that the page keeps
    :param complaints: the lines that the browser wrote on its console
    """

    over: int
    dark: bool
    faults: tuple[str, ...]
    rules: tuple[str, ...]
    complaints: tuple[str, ...]


def install(folder: Path) -> None:
    """Install the packages of npm into a folder.

    :raises NoBrowser: npm, Node.js or Chromium is missing, or the registry does not answer
    """
    for program, package in (("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")):
        _program(program, package)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *_PACKAGES]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NoBrowser(f"npm cannot install {' and '.join(_PACKAGES)}: {ran.stderr.strip()[-500:]}")


def look(url: str, views: Sequence[View], folder: Path) -> list[Seen]:
    """Show a page in each of the views.

    :param folder: the folder that :func:`install` filled
    """
    script = Path(__file__).with_suffix(".mjs")
    request = {
        "url": url,
        "browser": _program("chromium", "chromium"),
        "views": [asdict(view) for view in views],
    }
    ran = subprocess.run(
        [_program("node", "nodejs"), str(script)],
        input=json.dumps(request),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"Chromium does not show {url}: {ran.stderr}")
    return [
        Seen(one["over"], one["dark"], tuple(one["faults"]), tuple(one["rules"]), tuple(one["complaints"]))
        for one in json.loads(ran.stdout)
    ]


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NoBrowser(f"no {name}: apt install {package}")
    return found
