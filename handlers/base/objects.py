from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from handlers.base.resources import Resources

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


class Form(Enum):
    """How the id of an object is written; the value continues a sentence about the id."""

    UUID = "a uuid, such as 4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11"
    #: any text: a name, a range
    TEXT = "a text"

    def fits(self, identity: str) -> bool:
        return self is Form.TEXT or _UUID.fullmatch(identity) is not None

    def usual(self, identity: str) -> str:
        """Return an id in the letters of databases."""
        return identity.lower() if self is Form.UUID else identity


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """One kind of objects that findings name, as key or concern.

    :param kind: ``instance``, ``host``, ``load-balancer`` ...
    :param form: the form of the ids in findings. An exemption of another form would cover nothing
    :param unknown: a clause for an id that ``exists`` denies: ``Nova knows no host of this name``
    :param exists: whether the service has the object, by an id in the form's usual letters; None without a cheap way. It may
        raise Unavailable
    """

    kind: str
    form: Form
    unknown: str = ""
    exists: Callable[[Resources, str], bool] | None = None
