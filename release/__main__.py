"""Builds the packages of the commit twice, compares them, and writes the bill of materials: ``tox -e dist``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from release import bill, packages

ROOT = Path(__file__).parents[1]


def compared(source: Path, out: Path) -> list[Path]:
    """Build from two clones that differ in folder, times, umask and zone; return the packages, which are equal."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or packages.committed_at(source))
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        one = packages.build(packages.clone(source, Path(first) / "one"), Path(first) / "dist", epoch)
        two = packages.build(packages.clone(source, Path(second) / "two", umask=0o077), Path(second) / "dist", epoch)
        if packages.digests(one) != packages.digests(two):
            raise packages.Failed(f"two builds differ: {packages.digests(one)} {packages.digests(two)}")
        out.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(file, out)) for file in one]


def main() -> int:
    """Return 0 if both builds are equal and the files are written."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="the folder that gets the files (default: dist)"
    )
    out: Path = parser.parse_args().out
    try:
        if packages.run("git", "-C", ROOT, "status", "--porcelain"):
            print("Changes that are not committed are not in these packages.", file=sys.stderr)
        built = compared(ROOT, out)
        archive, wheel = built
        materials = out / f"{archive.name.removesuffix('.tar.gz')}.cdx.json"
        listed = bill.write(wheel, materials)
    except (packages.Failed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    sums = "".join(f"{digest}  {name}\n" for name, digest in packages.digests([*built, materials]).items())
    (out / "SHA256SUMS").write_text(sums)
    print(f"Two builds gave the same bytes. The bill of materials has {len(listed)} packages. In {out}:")
    print(sums, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
