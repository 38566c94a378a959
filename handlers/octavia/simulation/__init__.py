"""A cloud of amphorae in one process: what stands in for Nova, Neutron, Glance and Octavia where there is no cloud.

``cloud``       servers, ports, images and groups, with the rules by which Nova and Neutron refuse or ignore a call
``controller``  Octavia's API and controller, on a database with Octavia's tables

Behind :class:`~handlers.octavia.drivers.noop.NoopDriver`; for trying the service, and for tests.
"""
