"""A drift for every problem of Nova's handlers, made without an event.

``drift``    a drift, and the handler whose sweep must find it
``hosts``, ``mappings``, ``allocations``, ``ports``, ``archive``  the drifts of each family

``tests/functional/nova/test_sweeps.py`` makes every drift, and reads the problems from the code.
"""
