"""One-time-use PCI devices that Nova keeps reserved after their instance is deleted.

The handler is ``release_devices``; ``hook`` runs the operator's program.
"""
