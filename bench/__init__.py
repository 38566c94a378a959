"""Measurements against peers, made in one run on one machine: ``python -m bench`` lists them.

A figure of one program alone says more about the machine than about the program. So each benchmark runs the peers next
to it, in turn, and what counts are the ratios. Run it from the root of the repository, which it needs for the private
servers and the captured notifications of the tests.

``suite`` holds the benchmarks, one module each; ``report`` is what they return. What only ``ingest`` needs is in ``ingest``.
"""
