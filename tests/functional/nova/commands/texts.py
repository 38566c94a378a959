"""The texts that name commands: strings in the source code, and pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from consumer import plugins
from doc import directives
from handlers.base import Handler

ROOT = Path(__file__).parents[4]
#: stands for a value that the code fills in
VALUE = "VALUE"
PROGRAMS = frozenset({"openstack", "nova-manage"})
_BLOCK = re.compile(r"^ +[#$] (.+(?:\\\n.+)*)$", re.MULTILINE)
_LITERAL = re.compile(r"``([^`]+)``")


def of_findings(folder: str) -> Iterator[tuple[str, str]]:
    """Yield each string of the source code that a person may read, with its file. Docstrings are left out."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        if "simulation" not in path.parts:
            for text in _strings(ast.parse(path.read_text())):
                yield str(path.relative_to(ROOT)), text


def pages() -> list[Path]:
    return [ROOT / "README.rst", *sorted((ROOT / "doc" / "source").rglob("*.rst"))]


@cache
def of_page(path: Path) -> tuple[str, ...]:
    """Return the literals and the lines of consoles on a page."""
    text = directives.expand(path.read_text(), _handlers())
    literals = [" ".join(literal.split()) for literal in _LITERAL.findall(text)]
    lines = [" ".join(line.replace("\\\n", " ").split()) for line in _BLOCK.findall(text)]
    return (*literals, *lines)


@cache
def _handlers() -> tuple[type[Handler], ...]:
    return tuple(one for one in plugins.handlers() if one.__module__.startswith("handlers."))


def _strings(tree: ast.Module) -> Iterator[str]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            if id(node) not in docstrings:
                yield _text(node)
        elif isinstance(node, ast.List | ast.Tuple) and node.elts and _text(node.elts[0]) in PROGRAMS:
            yield " ".join(map(_text, node.elts))
        else:
            waiting += ast.iter_child_nodes(node)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else VALUE
