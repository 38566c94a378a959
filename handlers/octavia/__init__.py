"""The handlers of Octavia's drift, and their parts.

=========================  ===========================================================================================
failover/                  replaces failed amphorae
preserved/                 lists, releases and deletes preserved amphorae
leftovers/                 removes objects that Octavia left behind
spares/                    placeholders that make room for failovers
stuck_load_balancers.py    frees load balancers in PENDING_*, restores numbers of amphorae
balancers.py               whether a load balancer looks wrong
drivers/                   calls to a cloud, real or in memory
simulation/                a cloud in memory, with Octavia
housekeeping.py            the interface of Octavia's Housekeeping Manager specification
housekeeper.py             implements that interface with any driver
rebuild.py                 whether a load balancer in ERROR may be failed over
removal.py                 removes an amphora completely
flow_times.py              how long a flow works without writing a row
children.py                listeners, pools and their parts in PENDING_*
work_queue.py              whether requests wait for Octavia's workers
queries.py, changes.py     shared SELECTs; all writes to Octavia's database
records.py, tables.py      rows as values; table definitions
cloud_objects.py           servers, ports, images and groups, with stackmend's marks
names.py                   the names that Octavia gives its objects
options.py, settings.py    the options ``[octavia]`` and ``[housekeeping]``
watermarks.py              old rows that identify a database
database.py, revisions.py  the connection to the database; its known schemas
base.py, brokers.py        the handlers' base class; the broker of Octavia's notifications
notifications.py           Octavia's notifications of load balancers
pairing.py                 whether Octavia's database and the cloud belong together
checks.py, polling.py      Octavia's part of ``stackmend check``; a short wait for a result
=========================  ===========================================================================================
"""
