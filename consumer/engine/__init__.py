"""Turns a hint into a heal.

``router`` and ``inbox`` turn events into stored hints; ``dispatcher`` claims rows for ``worker``. A worker runs a sweep
(``sweeps``) or the ``reconciler``, which uses ``decisions``, ``gates`` and ``stores``. ``service`` starts the threads;
``oneshot`` needs no daemon.
"""
