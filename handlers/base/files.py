"""Reads the files that options name. It refuses a FIFO or a device, because a read from it can wait forever."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
#: the parameters of a database's URL that name files; the drivers open them with each connection
_OF_URLS = ("ssl_ca", "ssl_cert", "ssl_key", "sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")


def read_file(path: str | Path) -> bytes:
    """Return the content of a regular file. The call never waits for another process.

    :raises OSError: the file does not exist, is not readable, or is not a regular file
    """
    _require(os.stat(path), path)  # an open alone can change the state of a device
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as opened:
        _require(os.fstat(opened.fileno()), path)
        return opened.read()


def irregular(path: str | Path) -> str:
    """Return why a library must not open a path: ``a FIFO, not a regular file``. Empty for a regular or a missing file."""
    try:
        _require(os.stat(path), path)
    except OSError as error:
        return (error.strerror or "") if error.errno == errno.EINVAL else ""
    return ""


def irregular_in(query: Mapping[str, str | tuple[str, ...]]) -> str:
    """Return why a driver must not open a file that a database's URL names: ``ssl_ca = /x is a FIFO ...``; otherwise empty.

    :param query: the URL's parameters
    """
    files = ((name, path) for name in _OF_URLS if isinstance(path := query.get(name), str))
    found = ((name, path, reason) for name, path in files if (reason := irregular(path)))
    return next((f"{name} = {path} is {reason}" for name, path, reason in found), "")


def _require(status: os.stat_result, path: str | Path) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"{_KINDS.get(kind, 'a special file')}, not a regular file", str(path))
