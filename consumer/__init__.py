"""The machine: RabbitMQ, the journal and time. Knows nothing of Nova or Octavia beyond the contract in ``handlers.base``."""

from importlib.metadata import version

__version__ = version("stackmend")
