"""The only module that imports oslo.messaging, after it has selected oslo.service's threading backend.

oslo.messaging imports oslo.service, whose default is eventlet. An earlier selection, such as a test runner's, stays. Commands
without a broker avoid this import, because it takes a third of a second.
"""

from contextlib import suppress

from oslo_service.backend import BackendType, init_backend
from oslo_service.backend.exceptions import BackendAlreadySelected

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

import oslo_messaging
import oslo_messaging.opts

__all__ = ["oslo_messaging"]
