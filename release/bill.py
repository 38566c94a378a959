"""Writes the bill of materials (SBOM) in CycloneDX's JSON: the wheel, the drivers of both databases, and what they need."""

from __future__ import annotations

import json
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import PathDistribution
from pathlib import Path
from tempfile import TemporaryDirectory

from release.packages import run

EXTRAS = ("mysql", "postgresql")


def write(wheel: Path, target: Path) -> list[str]:
    """Install the wheel with the newest versions of what it needs, and list all of that; return the names.

    :func:`names` refuses a list that names a place of this machine.
    """
    with TemporaryDirectory() as folder:
        environment = Path(folder) / "installed"
        venv.create(environment, with_pip=False, symlinks=True)
        python = environment / "bin" / "python"
        install = ("install", "--quiet", "--no-compile", f"{wheel.resolve()}[{','.join(EXTRAS)}]")
        run(sys.executable, "-m", "pip", "--python", python, *install)
        [installed] = environment.glob("lib/python*/site-packages/stackmend-*.dist-info")
        # pip notes there from which folder it installed the wheel.
        (installed / "direct_url.json").unlink()
        found = PathDistribution(installed)
        subject = Path(folder) / "pyproject.toml"
        subject.write_text(project(found.version, found.requires or []))
        options = ("--output-reproducible", "--output-format", "JSON", "--output-file", target)
        about = ("--pyproject", subject, "--mc-type", "application")
        run(sys.executable, "-m", "cyclonedx_py", "environment", *options, *about, python)
        return names(target.read_text(), found.version, folder)


def project(version: str, requires: Iterable[str]) -> str:
    """Return what the list is about, as a pyproject.toml: cyclonedx-py reads no setup.cfg."""
    needed = (one.partition(";") for one in requires)
    kept = [name.strip() for name, _, marker in needed if "extra" not in marker or any(e in marker for e in EXTRAS)]
    return f'[project]\nname = "stackmend"\nversion = "{version}"\ndependencies = {json.dumps(kept)}\n'


def names(bill: str, version: str, folder: str) -> list[str]:
    """Return the names in a bill, sorted.

    Raise ValueError if it is not about this version of stackmend, if it lists nothing that stackmend needs, or if it names a
    place of this machine, such as ``folder``.
    """
    for place in ("file://", folder):
        if place in bill:
            raise ValueError(f"the bill of materials contains {place}")
    loaded = json.loads(bill)
    about = loaded["metadata"]["component"]
    if (about["name"], about["version"]) != ("stackmend", version):
        raise ValueError(f"the bill of materials is not about stackmend {version}")
    if not any(one["ref"] == about["bom-ref"] and one.get("dependsOn") for one in loaded["dependencies"]):
        raise ValueError("the bill of materials lists nothing that stackmend needs")
    return sorted(component["name"] for component in loaded["components"])
