"""The only module that imports oslo.messaging. First it selects the threading backend of oslo.service.

oslo.messaging imports oslo.service, whose default backend is eventlet. Commands without a broker avoid this import, because it
takes a third of a second.
"""

from contextlib import suppress

from oslo_service.backend import BackendType, init_backend
from oslo_service.backend.exceptions import BackendAlreadySelected

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

import oslo_messaging
import oslo_messaging.opts

__all__ = ["oslo_messaging"]
