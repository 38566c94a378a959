"""The handlers of Octavia's drift.

failover/           replaces failed amphorae
preserved/          lists, releases and deletes preserved amphorae
leftovers/          removes objects that Octavia left behind
spares/             keeps placeholders, which make room for failovers
stuck/              frees load balancers that are stuck in PENDING_*
certificates/       finds certificates of amphorae that Octavia does not rotate
drivers/            calls a cloud, real or in memory
simulation/         a cloud in memory, with Octavia
balancers.py        decides whether a load balancer looks wrong
housekeeping.py     the interface of the Housekeeping Manager specification
housekeeper.py      implements that interface with any driver
rebuild.py          decides whether stackmend may fail over a load balancer
removal.py          removes an amphora completely
flow_times.py       computes how long a flow works without writing a row
children.py         listeners, pools and their parts in PENDING_*
work_queue.py       decides whether requests wait for Octavia's workers
jobboard/           decides whether a worker carries on with a flow
queries.py          SELECTs of several handlers
changes.py          writes into Octavia's database
watermarks.py       old rows that identify Octavia's database
database.py         Octavia's database
revisions.py        known schemas of that database
base.py             the handlers' base class
brokers.py          Octavia's broker
pairing.py          decides whether Octavia's database and the cloud belong together
checks.py           ``stackmend check``
polling.py          waits for a result
"""
