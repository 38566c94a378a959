"""The handlers of Octavia's drift.

failover/                  replaces failed amphorae
preserved/                 lists, releases and deletes preserved amphorae
leftovers/                 removes objects that Octavia left behind
spares/                    placeholders that make room for failovers
stuck/                     frees load balancers that are stuck in PENDING_*
balancers.py               whether a load balancer looks wrong
certificates/              finds certificates of amphorae that Octavia does not rotate
drivers/                   calls to a cloud, real or in memory
simulation/                a cloud in memory, with Octavia
housekeeping.py            the interface of the Housekeeping Manager specification
housekeeper.py             implements that interface with any driver
rebuild.py                 whether stackmend may fail over a load balancer
removal.py                 removes an amphora completely
flow_times.py              how long a flow works without writing a row
children.py                listeners, pools and their parts in PENDING_*
work_queue.py              whether requests wait for Octavia's workers
jobboard/                  whether a worker carries on with a flow
queries.py, changes.py     shared SELECTs; writes
watermarks.py              old rows that identify Octavia's database
database.py, revisions.py  Octavia's database; its known schemas
base.py, brokers.py        the handlers' base class; Octavia's broker
pairing.py                 whether Octavia's database and the cloud belong together
checks.py, polling.py      ``stackmend check``; a short wait for a result
"""
