"""Octavia's drift.

=========================  ===========================================================================================
failover/                  replaces failed amphorae
preserved/                 lists, releases and deletes preserved amphorae
leftovers/                 removes objects that Octavia left behind
spares/                    placeholders that make room for failovers
stuck_load_balancers.py    frees load balancers in PENDING_*, restores numbers of amphorae
drivers/                   the calls to the cloud: a real one, and one in memory
simulation/                the cloud in memory, with Octavia
housekeeping.py            the interface of Octavia's Housekeeping Manager specification
housekeeper.py             implements that interface with any driver
rebuild.py                 whether a load balancer in ERROR may be failed over
removal.py                 complete removal of an amphora
flow_times.py              the longest time that a flow works without writing a row
children.py                listeners, pools and their parts in PENDING_*
work_queue.py              whether requests wait for Octavia's workers
queries.py, changes.py     shared SELECTs; every write
records.py, tables.py      row values; table definitions
cloud_objects.py           servers, ports, images and groups as values; stackmend's marks on them
names.py                   the names that Octavia gives its objects
options.py, settings.py    the options ``[octavia]`` and ``[housekeeping]``
watermarks.py              old rows that identify a database
database.py, revisions.py  the connection; known schemas
base.py, brokers.py        the handlers' common base; Octavia's broker
notifications.py           Octavia's notifications of load balancers
pairing.py                 whether Octavia's database and the cloud belong together
checks.py, polling.py      ``stackmend check``; a short wait for a result
=========================  ===========================================================================================
"""
