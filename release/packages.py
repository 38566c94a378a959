"""Builds the source distribution and the wheel of a commit. Where, when and by which user they are built changes no byte.

setuptools writes owners, modes and times of files into a source distribution, and modes into a wheel. So the source
distribution is packed again without them, and the wheel is built from it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory


class Failed(Exception):
    """A program failed. The text is its output."""


def run(*command: str | Path, umask: int = 0o022, environment: Mapping[str, str] | None = None) -> str:
    """Run a program with this umask and these additions to the environment; return its output, or raise :class:`Failed`."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        umask=umask,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(str(word) for word in command)}\n{done.stdout}")
    return done.stdout


def committed_at(source: Path) -> int:
    """Return when the commit of a checkout was made, in seconds since 1970: the time that all files in the packages get."""
    return int(run("git", "-C", source, "log", "-1", "--format=%ct"))


def clone(source: Path, target: Path, umask: int = 0o022) -> Path:
    """Copy the commit of a checkout and its tags, without what is not committed."""
    run("git", "clone", "--quiet", source, target, umask=umask)
    return target


def build(source: Path, out: Path, epoch: int) -> list[Path]:
    """Build both packages of a checkout.

    ``out`` is the folder that gets them, ``epoch`` the time of every file in them, in seconds since 1970.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        [raw] = _built("--sdist", source, Path(folder) / "raw", epoch)
        archive = out / raw.name
        repack(raw, archive, epoch)
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 has no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder)
        [made] = _built("--wheel", Path(folder) / raw.name.removesuffix(".tar.gz"), Path(folder) / "made", epoch)
        wheel = out / made.name
        wheel.write_bytes(made.read_bytes())
    return [archive, wheel]


def _built(kind: str, source: Path, out: Path, epoch: int) -> list[Path]:
    command = (sys.executable, "-m", "build", kind, "--no-isolation", "--outdir", out, source)
    run(*command, environment={"SOURCE_DATE_EPOCH": str(epoch)})
    return list(out.iterdir())


def repack(archive: Path, target: Path, epoch: int) -> None:
    """Write a ``.tar.gz`` again: sorted, without owners, with the two modes that git knows, with one time.

    ``epoch`` is that time, in seconds since 1970.
    """
    with (
        tarfile.open(archive) as old,
        target.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.linkname, entry.size, entry.mtime = member.type, member.linkname, member.size, epoch
            entry.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(entry, old.extractfile(member) if member.isreg() else None)


def digests(files: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
