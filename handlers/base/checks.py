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
    :param text: the observation, without secrets. A warning or a failure also names the remedy, if stackmend knows any
    """

    subject: str
    verdict: Verdict
    text: str = ""


#: Checks a deployment (entry point ``stackmend.checks``). The second argument has the mode of each handler. A check writes
#: nothing. For an object that it cannot check, it yields a failure, and raises no error.
Check = Callable[[Resources, Mapping[type[Handler], Mode]], Iterable[Checked]]
