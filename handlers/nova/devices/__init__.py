"""One-time-use PCI devices that Nova keeps reserved after their instance.

``release_devices``  the handler
``facts``            reads the records of a device
``rules``            decides about a device, without I/O
``queries``          the SQL
``hook``             runs the operator's program
"""
