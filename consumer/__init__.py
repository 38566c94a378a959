"""The daemon and the command line. Entry points name the handlers, so this package does not import them.

bus        turns messages of RabbitMQ into events
journal    stackmend's database: work to do, and history
engine     turns hints into heals
status     metrics, health and a page over HTTP
conf       the configuration
cli        the command line
"""

import warnings
from importlib.metadata import version

# oslo.service still depends on eventlet, whose warning would precede the output of every command.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

__version__ = version("stackmend")
