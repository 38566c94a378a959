"""Nova's cells: the rows of ``cell_mappings``, with URLs completed as in Nova (``nova/objects/cell_mapping.py``).

A URL can be a template such as ``mysql+pymysql://{username}:{password}@{hostname}/nova_cell2``. The values of its fields come
from a base URL, ``[database] connection`` or ``[DEFAULT] transport_url``. A base URL with several hosts also has the fields
``{username1}``, ``{hostname1}`` ... Values stay percent-encoded. A URL with other braces, for example in a password, is no
template.

If a template cannot be filled, this module raises :class:`TemplateError`. Nova would use the template as it is, or write
``None`` for a part that the base URL lacks, such as the port.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_FIELD = re.compile(r"(scheme|username|password|hostname|port|path|query|fragment)\d*")
#: the uuid of the cell for instances that were never scheduled
CELL0 = "00000000-0000-0000-0000-000000000000"


class TemplateError(Exception):
    """A cell's URL cannot be completed. The message contains no part of a URL."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A row of ``cell_mappings``. A disabled cell gets no new instances, but works otherwise."""

    id: int
    uuid: str
    name: str
    database_url: str = field(repr=False)
    transport_url: str = field(repr=False)
    disabled: bool = False

    @property
    def is_cell0(self) -> bool:
        """Whether this is cell0, which has instances that were never scheduled, but no hosts and no broker."""
        return self.uuid == CELL0

    @property
    def label(self) -> str:
        """The cell's name as a dependency: ``cell:cell1``, or ``cell:<uuid>`` for a cell without a name."""
        return f"cell:{self.name or self.uuid}"


def fill(template: str, base: str | None, base_option: str) -> str:
    """Return a cell's URL; if it is a template, fill its fields with parts of the URL ``base``.

    :raises TemplateError: the template needs ``base`` or a part of it that is missing
    """
    names = _names(template)
    if not names:
        return template
    if not base:
        raise TemplateError(f"its URL is a template, and {base_option} is not set")
    try:
        fields = _fields(base)
        missing = sorted(name for name in names if fields.get(name) is None)
        if missing:
            raise TemplateError(f"its URL is a template, and {base_option} gives no {' and no '.join(missing)}")
        return template.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise TemplateError(f"its URL is a template that {base_option} cannot fill ({type(error).__name__})") from None


def _names(url: str) -> set[str]:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(url) if name is not None}
    except ValueError:
        return set()
    return names if all(_FIELD.fullmatch(name) for name in names) else set()


def _fields(base: str) -> dict[str, object]:
    url = urlsplit(base)
    fields: dict[str, object] = {
        "scheme": url.scheme,
        "username": url.username,
        "password": url.password,
        "hostname": url.hostname,
        "port": url.port,
        "path": url.path.lstrip("/"),
        "query": url.query,
        "fragment": url.fragment,
    }
    if "," in url.netloc:
        for number, netloc in enumerate(url.netloc.split(","), start=1):
            fields.update({f"{name}{number}": value for name, value in _netloc_fields(netloc).items()})
    return fields


def _netloc_fields(netloc: str) -> dict[str, object]:
    credentials, _, address = netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    part = urlsplit(f"//{address}")
    return {
        "username": username,
        "password": password if colon else None,
        "hostname": part.hostname,
        "port": part.port,
    }
