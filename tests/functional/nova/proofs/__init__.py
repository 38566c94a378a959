"""A registered state for every heal on the safety page, and the records that its proof needs as small changes.

``stage``        the simulated cloud, which returns to a state between tests
``drift``        a state, the changes of its records, and its result after the heal
``changes``      changes that several states share
``hosts``, ``mappings``, ``allocations``, ``ports``, ``archive``  the states of each family

``tests/functional/nova/test_proofs.py`` reads the page and runs every change.
"""
