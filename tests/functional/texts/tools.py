"""Debian's programs that judge files written for other systems."""

from __future__ import annotations

import pytest

from tests.servers import packages


def tool(program: str, package: str) -> str:
    """Return the path of a program, installed if possible; otherwise skip the test and name the program."""
    try:
        return str(packages.find(program, package))
    except packages.Missing as missing:
        pytest.skip(str(missing))
