"""Octavia's drift.

=========================  ===========================================================================================
failover/                  failed amphorae are replaced
preserved/                 failed amphorae that are preserved for examination
leftovers/                 objects that Octavia left behind
spares/                    placeholder servers that make room for failovers
stuck_load_balancers.py    load balancers in PENDING_*, and wrong numbers of amphorae
drivers/                   the calls to the cloud: a real one, and one in memory
simulation/                the cloud in memory, with Octavia
housekeeping.py            the interface of the specification
housekeeper.py             the interface of the specification, over any driver
rebuild.py                 whether a load balancer in ERROR may be failed over
removal.py                 complete removal of an amphora
flow_times.py              the longest time of a flow, by octavia.conf
work_queue.py              whether a request waits for Octavia's workers
queries.py, changes.py     SELECTs that several handlers use; every write
records.py, tables.py      the rows as values; the tables
cloud_objects.py           servers, ports, images and groups as values; our marks on them
names.py                   the names that Octavia gives its objects
options.py, settings.py    the options ``[octavia]`` and ``[housekeeping]``
watermarks.py              old rows by which another database is recognised
database.py, revisions.py  the connection; the schemas that are known
base.py, brokers.py        the plugins' common part; Octavia's broker
checks.py, polling.py      ``stackmend check``; a short wait for a result
=========================  ===========================================================================================
"""
