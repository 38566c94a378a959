"""The objects that Octavia left behind.

=========================  ===========================================================================================
deactivated_amphorae.py    the handler: inspect, sweep, heal
rules.py                   pure decisions: whether an object is a leftover, and whether it may be removed
queries.py                 the objects that rows of Octavia still name
=========================  ===========================================================================================
"""
