"""The objects that Octavia left behind.

=========================  ===========================================================================================
deactivated_amphorae.py    the handler: inspect, sweep, heal
rules.py                   decides whether an object is a leftover, and whether stackmend may remove it
queries.py                 reads the ports and groups that Octavia's rows still name
=========================  ===========================================================================================
"""
