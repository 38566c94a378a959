"""Small pieces of reStructuredText."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def codes(words: Iterable[str], separator: str = ", ") -> str:
    """Return words as literals in one line."""
    return separator.join(f"``{word}``" for word in words)


def list_table(rows: Iterable[Sequence[str]], *options: str) -> str:
    """Return a table.

    :param options: of the directive: ``:header-rows: 1``
    """
    lines = [".. list-table::", *(f"   {option}" for option in options), ""]
    for first, *others in rows:
        lines += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    return "\n".join(lines)
