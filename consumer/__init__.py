"""The machine: RabbitMQ, the journal and time. Knows nothing of Nova or Octavia beyond the contract in ``handlers.base``."""

import warnings
from importlib.metadata import version

# oslo.service still depends on eventlet, whose warning would stand in front of every command's output.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

__version__ = version("stackmend")
