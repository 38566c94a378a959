"""From a hint to a heal: route, claim, inspect, decide, ask the gates, heal, record.

==================== =========================================================
router               events to hints
inbox                stores a batch of the bus
task                 a handler with its settings
dispatcher           the claiming thread and the worker threads
worker               works on a claim: a sweep or a key
sweeps               suspects, and the breaker that counts them
reconciler           one claim from start to end
decisions            findings and errors become decisions
gates/               the conditions for a heal, one per file
stores               record claims and heals
dependency_backoff   a handler waits while a dependency is down
oneshot              the commands ``sweep``, ``inspect``, ``heal``
guard                stops the handlers of a database that went back
leases               extends leases; deadline of claims
upkeep               retention, open lines of dead commands
announce, meter      notifications and counters
engine, service      the parts that threads share; the daemon
==================== =========================================================
"""
