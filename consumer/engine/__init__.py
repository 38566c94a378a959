"""Turns a hint into a heal.

``router`` and ``inbox`` store hints; ``dispatcher`` claims rows for ``worker``. A worker runs a sweep (``sweeps``) or the
``reconciler``, which uses ``decisions``, ``gates`` and ``stores``. ``service`` starts all threads; ``oneshot`` needs no daemon.
"""
