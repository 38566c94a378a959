from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from handlers.base.resources import Resources

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


class Form(Enum):
    """The form of an object's id; the value describes the form in error messages."""

    UUID = "a uuid, such as 4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11"
    #: any text: a name, a range
    TEXT = "a text"

    def fits(self, identity: str) -> bool:
        return self is Form.TEXT or _UUID.fullmatch(identity) is not None

    def usual(self, identity: str) -> str:
        """Return the id as databases store it: a UUID in lower case."""
        return identity.lower() if self is Form.UUID else identity


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """One kind of objects that findings name in their key or their concerns.

    :param kind: ``instance``, ``host``, ``load-balancer`` ...
    :param form: the form of the ids in findings; an id of another form names no object
    :param unknown: the message when ``exists`` returns False: ``Nova knows no host of this name``
    :param exists: returns whether the service has an object with this id (:meth:`Form.usual`), or raises Unavailable. None
        if the search costs too much
    """

    kind: str
    form: Form
    unknown: str = ""
    exists: Callable[[Resources, str], bool] | None = None
