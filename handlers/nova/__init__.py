"""Nova's drift. Five families stand on the files of this folder and do not know each other: hosts, mappings, allocations,
ports, archive. ``simulation`` and ``notifications`` are for tests and the demonstration.
"""
