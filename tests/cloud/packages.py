"""The virtual environment in which the OpenStack services run.

It is apart from the tests' own: the services pin what we would like to have newer, and a test
must not import Nova by accident. It is kept between runs, under the hash of its requirements.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cloud.release import NEWEST, Release


class Packages:
    """The environment's folder: ``venv``, and ``schemas`` for dumps of migrated databases.

    :param release: whose services
    """

    def __init__(self, release: Release = NEWEST) -> None:
        cache = os.environ.get("STACKMEND_CLOUD_VENV")
        default = Path(__file__).parents[2] / ".tox" / "cloud-services"
        self._requirements = release.requirements
        self._python = _python(release.python)
        content = self._requirements.read_bytes() + str(self._python).encode()
        key = hashlib.sha256(content).hexdigest()[:12]
        self.folder = (Path(cache) if cache else default).absolute() / key
        self.venv = self.folder / "venv"
        self.bin = self.venv / "bin"
        self.schemas = self.folder / "schemas"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One session at a time fills the cache."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def install(self) -> None:
        """Make the environment, unless it is there."""
        with self.lock():
            complete = self.folder / "complete"
            if complete.exists():
                return
            shutil.rmtree(self.venv, ignore_errors=True)
            uv = self._uv()
            _run(uv, "venv", "--quiet", "--python", self._python, self.venv)
            _run(
                *(uv, "pip", "install", "--quiet", "--compile-bytecode"),
                *("--python", self.bin / "python", "--requirements", self._requirements),
            )
            complete.touch()

    def _uv(self) -> Path:
        """uv, which resolves and unpacks these packages in seconds, not minutes."""
        beside = Path(sys.executable).with_name("uv")
        found = beside if beside.exists() else shutil.which("uv")
        if found:
            return Path(found)
        own = self.folder / "uv"
        if not (own / "bin" / "uv").exists():
            _run(sys.executable, "-m", "venv", own)
            _run(own / "bin" / "pip", "install", "--quiet", "uv")
        return own / "bin" / "uv"


def _python(wanted: tuple[int, int]) -> Path:
    """The Python for which the requirements are pinned; else the running one."""
    name = "python{}.{}".format(*wanted)
    candidates = [Path(sys.executable)]
    if found := shutil.which(name):
        candidates.append(Path(found))
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += sorted(root.glob("versions/{}.{}*/bin/python".format(*wanted)))
    for candidate in candidates:
        program = "import sys; print(*sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", program], capture_output=True, text=True, check=False)
        if done.stdout.split() == [str(part) for part in wanted]:
            return candidate
    return Path(sys.executable)


def _run(*arguments: str | Path) -> None:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        # uv believes the authorities that this machine does, as pip does.
        env={**os.environ, "UV_SYSTEM_CERTS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments[:3]))} failed:\n{done.stdout[-3000:]}")
