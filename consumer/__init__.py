"""The machine: RabbitMQ, the journal and time. Knows nothing of Nova or Octavia beyond the contract in ``handlers.base``.

oslo.messaging imports oslo.service, which picks its eventlet backend when nobody has chosen one before; a process of
plain threads must therefore choose the threading backend before the first import of oslo_messaging, and every import of
it in this package happens below this line. Whoever chose before us (a test runner, an embedding process) keeps the choice.
"""

from contextlib import suppress
from importlib.metadata import version

from oslo_service.backend import BackendType, init_backend
from oslo_service.backend.exceptions import BackendAlreadySelected

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

__version__ = version("stackmend")
