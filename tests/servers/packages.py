"""Finds the programs of the servers, and installs them where that is possible.

Distributions hide them (``/usr/lib/postgresql/15/bin``) or wrap them (the wrapper of
rabbitmq-server changes to a system user), so a look at PATH is not enough.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDERS = {
    "rabbitmq-server": ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin"),
    "galera-4": ("/usr/lib/galera", "/usr/lib64/galera-4"),
    "mariadb-server": ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/libexec"),
    "zookeeper": ("/usr/share/zookeeper/bin",),
    "postgresql": tuple(
        str(folder)
        for folder in sorted(
            Path("/usr/lib/postgresql").glob("*/bin"),
            key=lambda folder: [int(part) for part in folder.parent.name.split(".")],
            reverse=True,
        )
    ),
}
_POLICY = Path("/usr/sbin/policy-rc.d")


class Missing(Exception):
    """A program is not on this machine and could not be installed."""


def find(program: str, package: str) -> Path:
    """The path of ``program``, which the Debian package ``package`` brings."""
    found = _look(program, package)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with _one_at_a_time():
            found = _look(program, package)
            if found is None:
                _install(package)
                found = _look(program, package)
    if found is None:
        raise Missing(f"{program} is missing: install it with: apt-get install {package}")
    return found


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two test sessions on a fresh machine: the second one waits for the first, as apt and policy-rc.d want it."""
    with (Path(tempfile.gettempdir()) / f"stackmend-install-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _look(program: str, package: str) -> Path | None:
    folders = [*_FOLDERS.get(package, ()), *_versions(package)]
    path = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    # A library has no permission to be executed.
    found = shutil.which(program, mode=os.F_OK, path=path)
    return Path(found) if found else None


def _versions(package: str) -> list[str]:
    """PostgreSQL's folders as of now: the ones above may predate an installation."""
    if package != "postgresql":
        return []
    return sorted((str(f) for f in Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)


def _install(package: str) -> None:
    """Install a package without starting the system-wide service that comes with it."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(
                ["apt-get", "-q", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    finally:
        if ours:
            _POLICY.unlink()
