"""A consumer process: ``python -m bench.ingest.consumer <name>`` drains a queue and prints what it took.

A process of its own for each drain, with one consumer's imports in it, so that none gains or loses by another's memory,
threads or warm caches.
"""

from __future__ import annotations

import importlib
import sys

from bench.ingest.job import CONSUMERS, Job
from bench.ingest.meter import Meter


def main(name: str) -> None:
    """Run a consumer on the job that standard input describes."""
    if name not in CONSUMERS:
        raise SystemExit(f"{name} is none of {', '.join(CONSUMERS)}")
    consumer = importlib.import_module(f"bench.ingest.{name}")
    job = Job.from_json(sys.stdin.read())
    meter = Meter(job.messages)
    with meter.attached():
        consumer.consume(job, meter)
    print(meter.reading().as_json())


if __name__ == "__main__":
    main(sys.argv[1])
