"""oslo.messaging, for whoever needs it: the only place where it is imported.

It imports oslo.service, which picks its eventlet backend when nobody has chosen one before; a process of plain threads must
therefore choose the threading backend first. Whoever chose before us (a test runner, an embedding process) keeps the choice.
Commands that speak to no broker never come here: it takes a third of a second.
"""

from contextlib import suppress

from oslo_service.backend import BackendType, init_backend
from oslo_service.backend.exceptions import BackendAlreadySelected

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

import oslo_messaging
import oslo_messaging.opts

__all__ = ["oslo_messaging"]
