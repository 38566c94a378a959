"""From a hint to a heal: route, claim, inspect, decide, ask the gates, heal, record.

==================== ==================================================================================
router               an event gives hints
inbox                a batch from the bus becomes hints and dead letters, in one transaction
task                 a handler with its settings
dispatcher           the claiming thread and the worker threads
worker               a claim is a sweep or a key
sweeps               a handler lists its suspects; the breaker counts them
reconciler           one claim from start to end
decisions            what findings and errors mean, as pure functions
gates/               the conditions for a heal, one per file
stores               where claims and heals are recorded: journal or memory
dependency_backoff   a handler waits as a whole while a dependency is down
oneshot              the commands ``sweep``, ``inspect`` and ``heal``
upkeep               leases, retention, open lines of dead commands
announce, meter      notifications and counters
engine, service      the parts that threads share; the daemon
==================== ==================================================================================
"""
