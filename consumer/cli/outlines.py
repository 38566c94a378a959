"""Reads the docstrings of commands without an import of their modules, which import nearly every library of stackmend."""

from __future__ import annotations

import argparse
import ast
from functools import cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from cliff.command import Command
from cliff.commandmanager import EntryPointWrapper


class _Outline(Command):
    def take_action(self, parsed_args: argparse.Namespace) -> None:
        raise NotImplementedError


def outline(place: EntryPoint) -> EntryPointWrapper:
    """Return a command that has only the description of the command at ``place``. The list of commands needs no more."""
    text = _docstrings(place.module)[place.attr]
    return EntryPointWrapper(place.name, type(place.attr, (_Outline,), {"__module__": __name__, "__doc__": text}))


@cache
def _docstrings(module: str) -> dict[str, str]:
    spec = find_spec(module)
    assert spec
    assert spec.origin
    tree = ast.parse(Path(spec.origin).read_bytes())
    return {one.name: ast.get_docstring(one) or "" for one in tree.body if isinstance(one, ast.ClassDef)}
