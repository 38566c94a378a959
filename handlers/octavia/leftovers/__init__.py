"""The objects that Octavia left behind.

=========================  ===========================================================================================
deactivated_amphorae.py    the handler
judge.py                   reads an object with its rows, and asks the rules
rules.py                   decides whether an object is a leftover, and whether stackmend may remove it
suspects.py                lists the objects that look like leftovers
disposal.py                removes, preserves or fails over one leftover
preserving.py              the next step of the preservation of an amphora
reading.py, queries.py     the rows of amphorae and load balancers; the SQL
=========================  ===========================================================================================
"""
