"""The only import of oslo.messaging, which imports oslo.service, which defaults to eventlet.

So the threading backend is selected first; an earlier selection, as by a test runner, stays. The import takes a third of a
second: commands without a broker avoid it.
"""

from contextlib import suppress

from oslo_service.backend import BackendType, init_backend
from oslo_service.backend.exceptions import BackendAlreadySelected

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

import oslo_messaging
import oslo_messaging.opts

__all__ = ["oslo_messaging"]
