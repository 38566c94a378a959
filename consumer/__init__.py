"""The machine: RabbitMQ, the journal and time. Knows nothing of Nova or Octavia beyond the contract in ``handlers.base``.

oslo.messaging imports oslo.service, which picks its eventlet backend when nobody has chosen one before; a process of
plain threads must therefore choose the threading backend before the first import of oslo_messaging, and every import of
it in this package happens below this line. Whoever chose before us (a test runner, an embedding process) keeps the choice.
"""

import warnings
from contextlib import suppress
from importlib.metadata import version

# oslo.service still depends on eventlet, whose warning would stand in front of every command's output.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

from oslo_service.backend import BackendType, init_backend  # noqa: E402
from oslo_service.backend.exceptions import BackendAlreadySelected  # noqa: E402

with suppress(BackendAlreadySelected):
    init_backend(BackendType.THREADING)

__version__ = version("stackmend")
