"""The machine: RabbitMQ, the journal, time. It knows Nova and Octavia only through ``handlers.base``.

bus        turns messages of RabbitMQ into events
journal    the durable table of work and its history
engine     turns hints into heals
status     metrics, health and a page over HTTP
conf       the configuration
cli        the command line
plugins    finds plugins by entry point
messaging  imports oslo.messaging with plain threads
text       formats values for people
"""

import warnings
from importlib.metadata import version

# oslo.service still depends on eventlet, whose warning would precede the output of every command.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

__version__ = version("stackmend")
