"""A cloud with Octavia in one process, behind :class:`~handlers.octavia.drivers.noop.NoopDriver`; for trials and tests.

``cloud``       servers, ports, images and groups; refuses calls as Nova and Neutron do
``controller``  Octavia's API and controller, on a database with Octavia's tables
"""
