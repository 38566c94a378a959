from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from handlers.base.handler import Handler
from handlers.base.mode import Mode
from handlers.base.resources import Resources
from handlers.base.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of one check by ``stackmend check``.

    :param subject: the checked part of the deployment: ``nova.conf: notifications``
    :param text: the observation, without secrets. A warning or a failure also names the remedy, if stackmend knows one
    """

    subject: str
    verdict: Verdict
    text: str = ""


#: Judges a deployment beyond the options' own rules (entry point ``stackmend.checks``). Its second argument holds every
#: handler with its mode. It only reads, and yields a failure for an object that it cannot check, instead of raising.
Check = Callable[[Resources, Mapping[type[Handler], Mode]], Iterable[Checked]]
