"""From hint to heal: route events to keys, claim keys, look, decide, heal, record; sweeps, budgets and stops.

Rooms: ``router`` (event to hints), ``task`` (a handler with its settings), ``look`` (pure: what findings mean),
``worker`` (one claim from start to end), ``sweeps``, ``holds`` (dependencies that are down), ``dispatcher`` (claims and
threads), ``upkeep`` (leases, retention), ``inbox`` (batches from the bus into the journal), ``announce`` (notifications of
ours), ``service`` (puts the daemon together), ``oneshot`` (the same looks and heals for a command that ends).
"""
