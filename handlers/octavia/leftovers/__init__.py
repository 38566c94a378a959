"""Finds and removes the objects that Octavia left behind.

deactivated_amphorae.py    the handler
judge.py                   reads an object with its rows, and applies the rules
rules.py                   decides whether an object is a leftover, and whether stackmend may remove it
suspects.py                lists the objects that look like leftovers
disposal.py                heals one leftover
preserving.py              chooses the next step to preserve an amphora
reading.py, queries.py     read rows of Octavia's database
"""
