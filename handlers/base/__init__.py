"""The contract between handlers and the package ``consumer``, which runs them.

The main methods of a handler:

``sweep``    Which keys look wrong?  A sweep reads in bulk, and can list too many or too few keys.
``inspect``  Is this key really wrong?  An inspection proves the drift from databases and APIs.
``heal``     Repair the proved drift.  Of the three, only this method writes; audit mode never calls it.

An event is an untrusted hint: a :class:`Trigger` takes a :class:`Key` from the event. The methods never get the event.

The rule of proof: a heal that moves, takes or deletes something needs two independent witnesses and no contradiction. A missing
row is neither. If a database or an API that the proof needs does not answer, no heal begins.

The files are ``handler``, ``drift`` (keys, events, triggers, findings, results of heals), ``errors``, ``mode``, ``rights``,
``plugins`` (base classes for entry points), ``inspection`` (the context of one), ``resources``, ``brokers``, ``watermarks``,
``holds``, ``checks``, ``objects``, ``files`` and ``verdict``. Other packages import from here, not from the files.
"""

from __future__ import annotations

from handlers.base.brokers import Broker, Bus, QueueDepth, QueueReader
from handlers.base.checks import Check, Checked
from handlers.base.drift import Event, Finding, Healed, Json, Key, Trigger, keys_of
from handlers.base.errors import Conflict, HandlerError, Incomplete, InFlight, Refused, Unavailable, Unfinished
from handlers.base.files import irregular, irregular_in, read_file
from handlers.base.handler import EXEMPT_TAG, Handler
from handlers.base.holds import EVERYTHING, Hold, HoldSources
from handlers.base.inspection import InspectionContext
from handlers.base.mode import Mode
from handlers.base.objects import Form, ObjectKind
from handlers.base.plugins import Inventory, Plugin
from handlers.base.resources import Resources, Warns
from handlers.base.rights import EVERY_TABLE, Privilege, Rights, Role, Roles
from handlers.base.verdict import Verdict
from handlers.base.watermarks import Ids, Rising, Watermark, Watermarks

__all__ = [
    "EVERYTHING",
    "EVERY_TABLE",
    "EXEMPT_TAG",
    "Broker",
    "Bus",
    "Check",
    "Checked",
    "Conflict",
    "Event",
    "Finding",
    "Form",
    "Handler",
    "HandlerError",
    "Healed",
    "Hold",
    "HoldSources",
    "Ids",
    "InFlight",
    "Incomplete",
    "InspectionContext",
    "Inventory",
    "Json",
    "Key",
    "Mode",
    "ObjectKind",
    "Plugin",
    "Privilege",
    "QueueDepth",
    "QueueReader",
    "Refused",
    "Resources",
    "Rights",
    "Rising",
    "Role",
    "Roles",
    "Trigger",
    "Unavailable",
    "Unfinished",
    "Verdict",
    "Warns",
    "Watermark",
    "Watermarks",
    "irregular",
    "irregular_in",
    "keys_of",
    "read_file",
]
