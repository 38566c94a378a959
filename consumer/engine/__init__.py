"""Turns a hint into a heal: route, claim, inspect, decide, ask the gates, heal, record.

==================== =========================================================
router               turns events into hints
inbox                stores a batch of the bus
capacity             bounds the rows of work that wait
task                 a handler with its settings
dispatcher           the claiming thread and the worker threads
shares               shares the workers between services, events and background work
worker               works on a claim: runs a sweep or reconciles a key
sweeps               lists suspects
breaker              counts the suspects of a sweep that heals
reconciler           one claim from start to end
decisions            turns findings and errors into decisions
gates/               the conditions for a heal, one per file
stores               records claims and heals
dependency_backoff   lets a handler wait while a dependency is down
oneshot              the commands ``sweep``, ``inspect``, ``heal``
guard                stops the handlers of a database that went back
leases               extends leases until a claim's deadline
upkeep               deletes old records; adopts open lines of dead commands
announce, meter      notifications and counters
engine, service      the parts that threads share; the daemon
==================== =========================================================
"""
