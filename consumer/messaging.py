"""The only module of ``consumer`` that imports oslo.messaging. First, it selects oslo.service's threads instead of eventlet.

Commands that need no broker avoid this module, because the import is slow.
"""

import os
from contextlib import suppress

from oslo_service.backend import BackendType, init_backend
from oslo_service.backend.exceptions import BackendAlreadySelected

# oslo.service imports eventlet even for threads. Without its DNS resolver, that import takes a tenth of the time.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

import oslo_messaging
import oslo_messaging.opts

__all__ = ["oslo_messaging"]
