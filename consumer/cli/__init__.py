"""The command line: one file per noun, each a few cliff commands over the engine and the journal.

``main`` is the program, ``session`` what commands share (configuration, handlers, journal), ``base`` how they print and
how they fail: one line on stderr that says what is wrong and what to do. Exit codes: 0 all is well, 1 the command could
not do its work, 2 it did and something is still wrong.
"""

import warnings

# Libraries of OpenStack import eventlet where it is installed; it is never used here, and its warning concerns nobody.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

# It chooses oslo.service's backend, which must happen before oslo.messaging is imported.
import consumer.bus  # noqa: E402, F401
