"""A cloud of amphorae in one process, behind :class:`~handlers.octavia.drivers.noop.NoopDriver`; for trials and tests.

``cloud``       servers, ports, images and groups, with the rules by which Nova and Neutron refuse or ignore a call
``controller``  Octavia's API and controller, on a database with Octavia's tables
"""
