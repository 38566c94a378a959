"""A cloud with Octavia in one process, behind :class:`~handlers.octavia.drivers.noop.NoopDriver`; for trials and tests."""
